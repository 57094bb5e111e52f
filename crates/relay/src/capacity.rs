//! How much of the relay each tenant and key may use at once.
//!
//! `concurrency`: whether an exchange may begin; `memory`: how many bytes of bodies may be in memory, and whose;
//! `reservation`: the memory of one body; `collect`: reads a body into such memory.

mod collect;
mod concurrency;
mod memory;
mod reservation;

pub(crate) use collect::{
    BodyLimits, MISFRAMED, Unread, collect_body, collect_response, is_misframed,
};
pub(crate) use concurrency::{Capacity, ExchangePermit, Exchanges};
pub(crate) use memory::KeyMemory;
#[cfg(test)]
pub(crate) use memory::{BodyMemory, TenantMemory};
pub(crate) use reservation::{NoMemory, Reservation};
