//! The target's room against real Redis servers, and a scripted one.

mod connections;
mod ownership;
mod scripted;
mod server;
mod writing;
