//! Where a server listens, as written in a task file.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or IP address (without brackets), and a port.
    Tcp {
        /// Name or address, never empty.
        host: String,
        /// Port, never 0.
        port: u16,
    },
    /// A Unix domain socket, by absolute path.
    Unix(PathBuf),
}

/// Why a text is no address; the text says what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing behind the host.
    #[error("has no port, expected \"host:port\"")]
    NoPort,
    /// The port is not a number, 0, or too large.
    #[error("has no usable port, expected a number from 1 to 65535 behind the last colon")]
    Port,
    /// Nothing before the port.
    #[error("has no host, expected \"host:port\"")]
    NoHost,
    /// The host has characters that no host has.
    #[error("is not a host and port, expected \"host:port\", \"[ipv6]:port\" or \"unix:/path\"")]
    Host,
    /// Several colons, no brackets.
    #[error("is an IPv6 address without brackets, expected \"[ipv6]:port\"")]
    Bare6,
    /// Brackets around something else, or not closed.
    #[error("has no IPv6 address in its brackets, expected \"[ipv6]:port\"")]
    Brackets,
    /// A relative path of a socket.
    #[error("is a relative path, expected \"unix:/path\"")]
    Relative,
    /// An address in the form of a URL.
    #[error("is a URL, expected \"host:port\"; TLS and passwords have keys of their own")]
    Url,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.contains("://") {
            return Err(AddressError::Url);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(PathBuf::from(path))),
                false => Err(AddressError::Relative),
            };
        }
        if text.starts_with('/') {
            return Ok(Self::Unix(PathBuf::from(text)));
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or(AddressError::Brackets)?;
            let _: Ipv6Addr = host.parse().map_err(|_| AddressError::Brackets)?;
            let port = port.strip_prefix(':').ok_or(AddressError::NoPort)?;
            return Self::tcp(host, port);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
        if host.contains(':') {
            return Err(AddressError::Bare6);
        }
        let strange = |c: char| c.is_whitespace() || c.is_control() || "/@[]\"'".contains(c);
        if host.contains(strange) {
            return Err(AddressError::Host);
        }
        Self::tcp(host, port)
    }
}

impl Address {
    fn tcp(host: &str, port: &str) -> Result<Self, AddressError> {
        if host.is_empty() {
            return Err(AddressError::NoHost);
        }
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        match port.parse::<u16>() {
            Ok(port) if port != 0 && digits => Ok(Self::Tcp {
                host: host.to_owned(),
                port,
            }),
            _ => Err(AddressError::Port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_address_is_read_and_shown_again() {
        for text in [
            "localhost:6379",
            "10.0.0.1:1",
            "[2001:db8::1]:65535",
            "[::1]:6379",
            "unix:/run/redis.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!(
            "/run/redis.sock".parse(),
            Ok(Address::Unix(PathBuf::from("/run/redis.sock")))
        );
    }

    #[test]
    fn each_wrong_address_is_refused_for_its_own_reason() {
        for (text, reason) in [
            ("", AddressError::NoPort),
            ("localhost", AddressError::NoPort),
            ("[::1]", AddressError::NoPort),
            ("localhost:", AddressError::Port),
            ("localhost:0", AddressError::Port),
            ("localhost:+1", AddressError::Port),
            ("localhost:65536", AddressError::Port),
            (":6379", AddressError::NoHost),
            ("a b:6379", AddressError::Host),
            ("user@host:6379", AddressError::Host),
            ("::1:6379", AddressError::Bare6),
            ("[::1:6379", AddressError::Brackets),
            ("[localhost]:6379", AddressError::Brackets),
            ("unix:redis.sock", AddressError::Relative),
            ("redis://localhost:6379", AddressError::Url),
        ] {
            assert_eq!(text.parse::<Address>(), Err(reason), "{text:?}");
        }
    }
}
