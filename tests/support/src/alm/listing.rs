//! A list's parameters: `query`, `fields`, `order-by`, `page-size` and `start-index`.

use super::entity::{Entity, Values, held};
use super::envelope;
use super::fault::Fault;
use super::filter::{Filter, bracketed};
use super::media::Format;
use super::params::Params;
use super::project::Project;
use super::schema::EntityType;

const PAGE_SIZE_USUAL: usize = 100;
/// Larger pages are cut silently.
const PAGE_SIZE_MAX: usize = 2000;

/// A list as it was asked for.
#[derive(Debug)]
pub(super) struct Listing {
    of: EntityType,
    filter: Filter,
    fields: envelope::Chosen,
    order: Vec<Order>,
    page_size: usize,
    /// From 0; a client counts from 1.
    skip: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Order {
    field: usize,
    is_number: bool,
    is_descending: bool,
}

/// A value as it is ordered; nothing comes first.
#[derive(Debug, PartialEq, PartialOrd)]
enum Key<'a> {
    Number(f64),
    Text(&'a str),
}

impl Listing {
    pub(super) fn of(of: EntityType, params: &Params) -> Result<Self, Fault> {
        let filter = params.get("query").map(|text| Filter::parse(of, text));
        let fields = params.get("fields").map(|text| chosen(of, text));
        let order = params.get("order-by").map(|text| order(of, text));
        Ok(Self {
            of,
            filter: filter.transpose()?.unwrap_or_default(),
            fields: fields.transpose()?,
            order: order.transpose()?.unwrap_or_default(),
            page_size: page_size(params.get("page-size"))?,
            skip: skip(params.get("start-index"))?,
        })
    }

    /// The page, as a document.
    pub(super) fn written(self, project: &Project, format: Format, user: &str) -> String {
        let (page, total) = self.page(project, user);
        envelope::many(format, self.of, &page, total, self.fields, user)
    }

    /// The page, and how many there are in all. By id, nothing needs to be sorted.
    fn page<'p>(&self, project: &'p Project, user: &str) -> (Vec<&'p Entity>, usize) {
        let all = project.all(self.of);
        let all = all.filter(|one| self.filter.matches(one.seen_by(user)));
        match self.order[..] {
            [] => self.cut(all),
            [by] if by.field == 0 && by.is_descending => self.cut(all.rev()),
            [by] if by.field == 0 => self.cut(all),
            _ => self.cut(self.sorted(all, user).into_iter()),
        }
    }

    fn cut<'p>(&self, all: impl Iterator<Item = &'p Entity>) -> (Vec<&'p Entity>, usize) {
        let (mut page, mut total) = (Vec::new(), 0);
        for entity in all {
            if total >= self.skip && page.len() < self.page_size {
                page.push(entity);
            }
            total += 1;
        }
        (page, total)
    }

    fn sorted<'p>(&self, all: impl Iterator<Item = &'p Entity>, user: &str) -> Vec<&'p Entity> {
        let mut keyed: Vec<(Vec<Option<Key<'p>>>, &Entity)> = all
            .map(|entity| {
                (
                    self.order
                        .iter()
                        .map(|by| by.key(entity.seen_by(user)))
                        .collect(),
                    entity,
                )
            })
            .collect();
        keyed.sort_by(|(one, _), (other, _)| {
            let each = self.order.iter().zip(one.iter().zip(other));
            let mut each = each.map(|(by, (one, other))| {
                let ordering = one.partial_cmp(other).expect("no number here is NaN");
                if by.is_descending {
                    ordering.reverse()
                } else {
                    ordering
                }
            });
            each.find(|ordering| ordering.is_ne())
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        keyed.into_iter().map(|(_, entity)| entity).collect()
    }
}

impl Order {
    fn key<'p>(&self, values: &'p Values) -> Option<Key<'p>> {
        let value = held(values, self.field).first()?;
        if self.is_number {
            value.parse().ok().map(Key::Number)
        } else {
            Some(Key::Text(value))
        }
    }
}

fn chosen(of: EntityType, text: &str) -> Result<Vec<usize>, Fault> {
    text.split(',')
        .map(|name| of.field(name.trim()).map(|(place, _)| place))
        .collect()
}

/// `{last-modified[DESC];id}`; a comma between fields is no order.
fn order(of: EntityType, text: &str) -> Result<Vec<Order>, Fault> {
    let inside = text
        .trim()
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'))
        .ok_or_else(|| Fault::filter(format!("'{text}' is not in braces")))?;
    let parts = inside.split(';').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(|part| order_by(of, part))
        .collect()
}

fn order_by(of: EntityType, part: &str) -> Result<Order, Fault> {
    let (name, direction) = match part.contains('[') {
        true => *bracketed(part)?.first().expect("it has a bracket"),
        false => (part, "ASC"),
    };
    let direction = direction.split(',').next().unwrap_or_default();
    let is_descending = direction.trim().eq_ignore_ascii_case("DESC");
    if !is_descending && !direction.trim().eq_ignore_ascii_case("ASC") {
        return Err(Fault::filter(format!("'{direction}' is no direction")));
    }
    let (field, found) = of.field(name).map_err(|fault| Fault::filter(fault.title))?;
    Ok(Order {
        field,
        is_number: found.kind.is_number(),
        is_descending,
    })
}

fn page_size(text: Option<&str>) -> Result<usize, Fault> {
    match text {
        None => Ok(PAGE_SIZE_USUAL),
        Some("max") => Ok(PAGE_SIZE_MAX),
        Some(text) => {
            let size: usize = number("page-size", text)?;
            Ok(size.min(PAGE_SIZE_MAX))
        }
    }
}

fn skip(text: Option<&str>) -> Result<usize, Fault> {
    let start = text.map_or(Ok(1), |text| number("start-index", text))?;
    Ok(start.saturating_sub(1))
}

fn number(name: &str, text: &str) -> Result<usize, Fault> {
    text.parse()
        .map_err(|_| Fault::filter(format!("'{text}' is no {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(defects: u64) -> Project {
        let mut project = Project::new();
        for id in 1..=defects {
            let modified = format!("2026-01-01 00:00:{:02}", id % 7);
            let fields = [("name", "d"), ("last-modified", modified.as_str())];
            project.insert(Entity::of(EntityType::Defect, id, &fields));
        }
        project
    }

    fn ids(project: &Project, query: &str) -> (Vec<u64>, usize) {
        let params = Params::of(query);
        let listing = Listing::of(EntityType::Defect, &params).expect("it can be read");
        let (page, total) = listing.page(project, "ann");
        (page.iter().map(|entity| entity.id).collect(), total)
    }

    #[test]
    fn pages_are_contiguous_from_one() {
        let project = project(250);
        assert_eq!(ids(&project, "").0.len(), PAGE_SIZE_USUAL);
        let (first, total) = ids(&project, "page-size=100&start-index=1");
        let (last, _) = ids(&project, "page-size=100&start-index=201");
        assert_eq!((first[0], first[99], total), (1, 100, 250));
        assert_eq!((last[0], last.len()), (201, 50));
        assert!(ids(&project, "start-index=251").0.is_empty());
        assert_eq!(ids(&project, "page-size=max").0.len(), 250);
        assert_eq!(ids(&project, "page-size=99999").0.len(), 250);
    }

    #[test]
    fn page_is_silently_cut_at_2000() {
        let project = project(2100);
        assert_eq!(ids(&project, "page-size=5000").0.len(), PAGE_SIZE_MAX);
    }

    #[test]
    fn list_is_ordered_by_several_fields() {
        let project = project(10);
        let (page, _) = ids(&project, "order-by=%7Blast-modified%5BDESC%5D;id%7D");
        assert_eq!(page, [6, 5, 4, 3, 10, 2, 9, 1, 8, 7]);
        let (page, _) = ids(&project, "order-by={id[DESC]}&page-size=2");
        assert_eq!(page, [10, 9]);
    }

    #[test]
    fn filter_narrows_the_total() {
        let project = project(100);
        let query = "query={id[>10 AND <= 20]}&page-size=3";
        assert_eq!(ids(&project, query), (vec![11, 12, 13], 10));
    }

    #[test]
    fn unreadable_query_is_not_found() {
        let refused = |query: &str| {
            let listing = Listing::of(EntityType::Defect, &Params::of(query));
            listing.expect_err(query).status.as_u16()
        };
        for query in [
            "order-by={last-modified,id}",
            "order-by=id",
            "order-by={id[UP]}",
            "page-size=-1",
            "start-index=x",
            "query={id[}",
        ] {
            assert_eq!(refused(query), 404, "{query}");
        }
        assert_eq!(refused("fields=id,nothing"), 400);
    }
}
