//! Rewrites `Location` and `Content-Location`.

use super::{below, path_of};
use policy::{Endpoint, Methods};

/// Returns the URL through the endpoint, or `None` where the value is not changed. `is_in_folder`: the request
/// path had more than the endpoint's name.
pub(super) fn at_endpoint(
    value: &[u8],
    endpoint: &Endpoint,
    is_in_folder: bool,
) -> Option<Vec<u8>> {
    absolute(value, endpoint).or_else(|| relative(value, endpoint, is_in_folder))
}

/// Rewrites a URL, or a path from the root.
fn absolute(value: &[u8], endpoint: &Endpoint) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let url_bytes = text.find(['?', '#']).unwrap_or(text.len());
    let (reference, query_and_fragment) = text.split_at(url_bytes);
    let base = &endpoint.base;
    let url = if reference.starts_with("//") {
        format!("{}:{reference}", base.scheme())
    } else if reference.starts_with('/') {
        format!("{}{reference}", base.origin())
    } else {
        reference.to_owned()
    };
    // `Endpoint::new` rejects dot segments in every spelling: a client would resolve them and leave the
    // endpoint, or the bridge would refuse the path.
    let target = Endpoint::new(&endpoint.name, &url, Methods::Any).ok()?.base;
    let is_same_origin = target.scheme() == base.scheme()
        && target.host() == base.host()
        && target.port() == base.port();
    let rest = below(base.path(), target.path().as_bytes()).filter(|_| is_same_origin)?;
    let mut written = path_of(endpoint, rest);
    written.extend_from_slice(query_and_fragment.as_bytes());
    Some(written)
}

/// Rewrites a relative reference in a response to the bare name. It is relative to the endpoint, and a client
/// would resolve it in the folder of all endpoints.
fn relative(value: &[u8], endpoint: &Endpoint, is_in_folder: bool) -> Option<Vec<u8>> {
    let is_relative = value.first().is_some_and(u8::is_ascii_alphanumeric)
        && !value.contains(&b':')
        && !value.windows(2).any(|two| two == b"..");
    let has_folder = endpoint.base.path().ends_with('/');
    if is_in_folder || !is_relative || !has_folder {
        return None;
    }
    Some(path_of(endpoint, &[b"/", value].concat()))
}
