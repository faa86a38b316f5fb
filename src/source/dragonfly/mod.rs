//! A Dragonfly master: handshake, flows, snapshot stream, journal stream.
