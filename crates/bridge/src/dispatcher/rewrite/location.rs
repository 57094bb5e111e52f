//! `Location` and `Content-Location`: where an answer leads.

use super::{below, path_of};
use policy::{Endpoint, Methods};

/// A place that leads through the endpoint; `None` where it stays as it is. `is_in_folder`: the request had
/// more than the endpoint's name.
pub(super) fn at_endpoint(
    value: &[u8],
    endpoint: &Endpoint,
    is_in_folder: bool,
) -> Option<Vec<u8>> {
    absolute(value, endpoint).or_else(|| beside(value, endpoint, is_in_folder))
}

/// A URL, or a path from the root.
fn absolute(value: &[u8], endpoint: &Endpoint) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let place_bytes = text.find(['?', '#']).unwrap_or(text.len());
    let (place, query_and_fragment) = text.split_at(place_bytes);
    let base = &endpoint.base;
    let url = if place.starts_with("//") {
        format!("{}:{place}", base.scheme())
    } else if place.starts_with('/') {
        format!("{}{place}", base.origin())
    } else {
        place.to_owned()
    };
    // Where an endpoint could begin, there is no dot segment in any spelling: a client would remove it
    // and leave the endpoint, or the bridge would refuse it.
    let place = Endpoint::new(&endpoint.name, &url, Methods::Any).ok()?.base;
    let is_same_origin = place.scheme() == base.scheme()
        && place.host() == base.host()
        && place.port() == base.port();
    let rest = below(base.path(), place.path().as_bytes()).filter(|_| is_same_origin)?;
    let mut written = path_of(endpoint, rest);
    written.extend_from_slice(query_and_fragment.as_bytes());
    Some(written)
}

/// A relative reference in an answer to the bare name: it counts from the endpoint, and a client would
/// count it from the folder of all endpoints.
fn beside(value: &[u8], endpoint: &Endpoint, is_in_folder: bool) -> Option<Vec<u8>> {
    let is_relative = value.first().is_some_and(u8::is_ascii_alphanumeric)
        && !value.contains(&b':')
        && !value.windows(2).any(|two| two == b"..");
    let has_folder = endpoint.base.path().ends_with('/');
    if is_in_folder || !is_relative || !has_folder {
        return None;
    }
    Some(path_of(endpoint, &[b"/", value].concat()))
}
