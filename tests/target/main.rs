//! The target's room against real Redis servers, and a scripted one.

#[path = "../support/mod.rs"]
mod support;

mod connections;
mod failed;
mod fence;
mod ownership;
mod scripted;
mod scripted_fence;
mod server;
mod writing;
