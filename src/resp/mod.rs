//! RESP: encode commands into a buffer, scan replies without building values.
