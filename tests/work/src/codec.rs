//! One frame to bytes and back.

use crate::{Round, Work, samples};
use bytes::Bytes;
use protocol::frame::{BodyLength, Class, Frame};
use std::hint::black_box;

pub(crate) fn works() -> Vec<Work> {
    let work = |name, rounds, start| Work {
        name,
        unit: "frame",
        units: 1,
        rounds,
        start,
    };
    vec![
        work("codec/encode OPEN", 5_000, || encode(open())),
        work("codec/decode OPEN", 5_000, || decode(&open())),
        work("codec/encode HEAD", 5_000, || encode(head())),
        work("codec/decode HEAD", 5_000, || decode(&head())),
        work("codec/encode DATA", 4_000, || encode(data())),
        work("codec/decode DATA", 20_000, || decode(&data())),
    ]
}

fn open() -> Frame {
    Frame::Open {
        id: 7,
        head: Box::new(samples::request(Class::Interactive)),
        body: Bytes::from_static(&samples::SMALL),
        end: true,
    }
}

fn head() -> Frame {
    Frame::Head {
        id: 7,
        head: samples::response(BodyLength::Known(samples::SMALL.len() as u64)),
        body: Bytes::from_static(&samples::SMALL),
        end: true,
    }
}

fn data() -> Frame {
    Frame::Data {
        id: 7,
        data: samples::piece(),
        end: false,
    }
}

fn encode(frame: Frame) -> Round {
    Box::new(move || {
        let bytes = black_box(&frame).encode();
        black_box(bytes.expect("it is within its limits"));
    })
}

fn decode(frame: &Frame) -> Round {
    let bytes = frame.encode().expect("it is within its limits");
    Box::new(move || {
        let frame = Frame::decode(black_box(&bytes).clone());
        black_box(frame.expect("our own encoding"));
    })
}
