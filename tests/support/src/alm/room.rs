//! `/qcbin/rest/domains/{domain}/projects/{project}/…`: what is done within one project.

use http::header::LOCATION;
use http::{Method, StatusCode};

use super::call::Call;
use super::customization;
use super::envelope;
use super::fault::Fault;
use super::listing::Listing;
use super::media::Content;
use super::project::Project;
use super::reply::{self, Reply};
use super::schema::EntityType;
use super::write::Writer;
use super::{attachment, bulk, locks, versions};

/// A request that has come into its project.
pub(super) struct Room<'a> {
    pub(super) project: &'a mut Project,
    pub(super) writer: Writer<'a>,
    pub(super) call: &'a Call,
}

impl Room<'_> {
    /// A response in the form that was asked for.
    pub(super) fn data(&self, status: StatusCode, body: String) -> Reply {
        reply::data(status, self.call.accept.data(), body)
    }

    /// A response with all of an entity.
    pub(super) fn entity(
        &self,
        status: StatusCode,
        of: EntityType,
        id: u64,
    ) -> Result<Reply, Fault> {
        let entity = self.project.get(of, id)?;
        let format = self.call.accept.data();
        let user = &self.writer.who.user;
        Ok(self.data(status, envelope::one(format, entity, user)))
    }
}

/// Answers at the rest of a path.
pub(super) fn answer(room: &mut Room<'_>, path: &[&str]) -> Result<Reply, Fault> {
    match path {
        ["customization", rest @ ..] => customization::answer(room, rest),
        [collection] => at_collection(room, entity_type(collection)?),
        [collection, id, rest @ ..] => {
            let of = entity_type(collection)?;
            let id = id.parse().map_err(|_| Fault::not_found(of.name(), id))?;
            at_entity(room, of, id, rest)
        }
        [] => Err(Fault::no_such_resource()),
    }
}

fn entity_type(collection: &str) -> Result<EntityType, Fault> {
    EntityType::of_collection(collection).ok_or_else(Fault::no_such_resource)
}

fn at_collection(room: &mut Room<'_>, of: EntityType) -> Result<Reply, Fault> {
    let is_bulk = matches!(room.call.content, Content::Collection(_));
    match room.call.method {
        Method::GET => {
            let listing = Listing::of(of, &room.call.params)?;
            let (format, user) = (room.call.accept.data(), &room.writer.who.user);
            let text = listing.written(room.project, format, user);
            Ok(room.data(StatusCode::OK, text))
        }
        Method::POST if is_bulk => bulk::create(room, of),
        Method::POST => create(room, of),
        Method::PUT if is_bulk => bulk::update(room, of),
        Method::DELETE => bulk::delete(room, of),
        _ => Err(Fault::method_not_allowed()),
    }
}

fn create(room: &mut Room<'_>, of: EntityType) -> Result<Reply, Fault> {
    let draft = room.call.draft()?;
    let id = room.writer.create(room.project, of, &draft)?;
    let reply = room.entity(StatusCode::CREATED, of, id)?;
    let at = format!("{}{}/{id}", room.call.origin, room.call.path);
    Ok(reply::with(reply, LOCATION, &at))
}

fn at_entity(room: &mut Room<'_>, of: EntityType, id: u64, rest: &[&str]) -> Result<Reply, Fault> {
    match rest {
        [] => one(room, of, id),
        ["lock"] if of.has_locks() => locks::answer(room, of, id),
        ["versions", action] => versions::answer(room, of, id, action),
        ["attachments"] => attachment::collection(room, of, id),
        ["attachments", key] => attachment::member(room, of, id, key),
        _ => Err(Fault::no_such_resource()),
    }
}

fn one(room: &mut Room<'_>, of: EntityType, id: u64) -> Result<Reply, Fault> {
    match room.call.method {
        Method::GET => room.entity(StatusCode::OK, of, id),
        Method::PUT => {
            let draft = room.call.draft()?;
            room.writer.update(room.project, of, id, &draft)?;
            room.entity(StatusCode::OK, of, id)
        }
        Method::DELETE => {
            let gone = room.writer.delete(room.project, of, id)?;
            let format = room.call.accept.data();
            let text = envelope::one(format, &gone, &room.writer.who.user);
            Ok(room.data(StatusCode::OK, text))
        }
        _ => Err(Fault::method_not_allowed()),
    }
}
