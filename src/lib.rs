//! im-callback takes an IM provider's signed callbacks, stores every event in MongoDB exactly once, and
//! answers how many messages are unread.
//!
//! # Reading order
//! 1. [`ingest`]: how a callback's bytes become durable, in one page.
//! 2. [`callback`]: what a callback means. Pure: no I/O, no clock, no HTTP, no MongoDB.
//! 3. [`store`]: documents, the commit and its guarantees, unread counts, and `state`, a projection.
//! 4. [`spool`]: the local queue for callbacks that MongoDB cannot take now.
//! 5. [`http`]: routes and errors. [`app`] assembles the parts, [`cli`] has the commands.
//!
//! `ARCHITECTURE.md` has the map, the invariants and a walkthrough of a callback and of a query.

pub mod app;
pub mod auth;
pub mod callback;
pub mod check;
pub mod cli;
pub mod config;
pub mod http;
pub mod ingest;
pub mod live;
pub mod metrics;
pub mod shutdown;
pub mod spool;
pub mod store;
pub mod subscriptions;
pub mod telemetry;
pub mod throttle;
mod upkeep;
pub mod words;
