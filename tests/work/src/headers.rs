//! A header map to the wire and back.

use crate::{Work, samples};
use std::hint::black_box;
use transport::http::{from_wire, to_wire};

pub(crate) fn works() -> Vec<Work> {
    let work = |name, start| Work {
        name,
        unit: "head",
        units: 1,
        rounds: 5_000,
        start,
    };
    vec![
        work("headers/to the wire", || {
            let map = samples::request_map();
            Box::new(move || {
                let headers = to_wire(black_box(&map), |name| name == http::header::HOST);
                black_box(headers.expect("they fit a head"));
            })
        }),
        work("headers/from the wire", || {
            let headers = samples::wire(&samples::request_map());
            Box::new(move || {
                let map = from_wire(black_box(&headers));
                black_box(map.expect("they are valid"));
            })
        }),
    ]
}
