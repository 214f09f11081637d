//! The service as a whole: real sockets, a real `mongod`, a database per test.
//!
//! One binary, for one link. Run it by `make test`, which brings the server in `MONGODB_URI`.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

mod abandoned;
mod analysts;
mod backfill;
mod callbacks;
mod catch_up;
mod chaos;
mod complete;
mod cors;
mod dead_letters;
mod doctor;
mod errors;
mod failover;
mod failpoints;
mod fsync;
mod guard;
mod hostile;
mod indexes;
mod keys;
mod kinds;
mod load;
mod logs;
mod lost_callbacks;
mod messages;
mod metrics;
mod openapi;
mod oracle;
mod outage;
mod overflow;
mod presence;
mod protocol;
mod providers;
mod rate_limits;
mod read;
mod reconcile;
mod refusals;
mod retention;
mod rongcloud;
mod samples;
mod signals;
mod spool;
mod storing;
mod stream;
mod stream_changes;
mod stream_ends;
mod support;
mod tokens;
mod trace;
mod trace_broken;
mod trace_limits;
mod trace_load;
mod trace_questions;
mod trace_verdicts;
mod undecodable;
mod unread;
mod unread_all;
mod unread_indexes;
mod unread_lanes;
mod unread_teams;
mod upgrade;
mod user_routes;
mod validators;
mod wildfire;
mod yuntongxun;
