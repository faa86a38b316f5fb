//! Task files: types, defaults, discovery, validation with file, line and key.
