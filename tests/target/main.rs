//! The target's room against real Redis servers, and a scripted one.

#[path = "../support/mod.rs"]
mod support;

mod connections;
mod ownership;
mod scripted;
mod server;
mod writing;
