//! slog drains: file, terminal, async, formats.
