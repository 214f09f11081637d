//! Takes an IM provider's signed callbacks and stores every event once.

pub mod callback;
pub mod store;
