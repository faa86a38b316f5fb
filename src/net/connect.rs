//! Addresses and connections.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::client::TlsStream;

use super::tls::{TlsError, TlsSettings};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A host name or IP address (without brackets) and a port.
    Tcp {
        /// Name or address.
        host: String,
        /// Port, never 0.
        port: u16,
    },
    /// A Unix domain socket.
    Unix(PathBuf),
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}, expected \"host:port\", \"[ipv6]:port\" or \"unix:/path\"")]
pub struct EndpointError(&'static str);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text
            .strip_prefix("unix:")
            .or(text.starts_with('/').then_some(text))
        {
            if !path.starts_with('/') {
                return Err(EndpointError("the socket's path is not absolute"));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest
                    .split_once("]:")
                    .ok_or(EndpointError("an address in brackets without \"]:port\""))?;
                host.parse::<std::net::Ipv6Addr>()
                    .map_err(|_| EndpointError("not an IPv6 address in the brackets"))?;
                (host, port)
            }
            None => text
                .rsplit_once(':')
                .ok_or(EndpointError("the port is missing"))?,
        };
        if host.is_empty() {
            return Err(EndpointError("the host is missing"));
        }
        if host.contains(|c: char| c.is_whitespace() || c == '/' || c == '@') {
            return Err(EndpointError("not a host name"));
        }
        if host.contains(':') && !text.starts_with('[') {
            return Err(EndpointError("an IPv6 address must stand in brackets"));
        }
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(EndpointError("the port is not a number from 1 to 65535"))?;
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name means nothing to the resolver.
    #[error("cannot resolve \"{host}\"")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        cause: io::Error,
    },
    /// Nobody answered in time.
    #[error("no answer from {endpoint} within {}", humantime::format_duration(*.after))]
    Timeout {
        /// Whom.
        endpoint: Endpoint,
        /// How long was waited.
        after: Duration,
    },
    /// Refused, unreachable, no such socket.
    #[error("cannot connect to {endpoint}")]
    Refused {
        /// Whom.
        endpoint: Endpoint,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The TLS settings cannot be used; no connection was tried.
    #[error("cannot prepare TLS for {endpoint}")]
    Tls {
        /// Whom.
        endpoint: Endpoint,
        /// What is wrong with the settings.
        #[source]
        cause: TlsError,
    },
    /// The other end does not speak TLS, or its certificate is not acceptable.
    #[error("TLS handshake with {endpoint} failed")]
    Handshake {
        /// Whom.
        endpoint: Endpoint,
        /// What failed.
        #[source]
        cause: io::Error,
    },
}

impl ConnectError {
    /// Whether trying again later can help: everything but unusable settings.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Timeout { .. }
            | Self::Refused { .. }
            | Self::Handshake { .. } => true,
            Self::Tls { .. } => false,
        }
    }
}

/// A connection of any kind.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix domain socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// TLS over a Unix domain socket.
    TlsUnix(Box<TlsStream<UnixStream>>),
}

/// Connects, within `timeout` over all attempts and the TLS handshake. A name is looked up anew each time: the server
/// may have moved. Cancel safe.
pub async fn connect(
    endpoint: &Endpoint,
    tls: Option<&TlsSettings>,
    timeout: Duration,
) -> Result<Stream, ConnectError> {
    let shaking_hands = AtomicBool::new(false);
    let connecting = connect_now(endpoint, tls, &shaking_hands);
    match tokio::time::timeout(timeout, connecting).await {
        Ok(result) => result,
        // Typical of a port without TLS, which waits for more of what it does not understand.
        Err(_) if shaking_hands.load(Ordering::Relaxed) => Err(ConnectError::Handshake {
            endpoint: endpoint.clone(),
            cause: io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {}", humantime::format_duration(timeout)),
            ),
        }),
        Err(_) => Err(ConnectError::Timeout {
            endpoint: endpoint.clone(),
            after: timeout,
        }),
    }
}

async fn connect_now(
    endpoint: &Endpoint,
    tls: Option<&TlsSettings>,
    shaking_hands: &AtomicBool,
) -> Result<Stream, ConnectError> {
    let handshake = |cause| ConnectError::Handshake {
        endpoint: endpoint.clone(),
        cause,
    };
    let prepare = |host: &str| {
        tls.map(|tls| tls.prepare(host))
            .transpose()
            .map_err(|cause| ConnectError::Tls {
                endpoint: endpoint.clone(),
                cause,
            })
    };
    match endpoint {
        Endpoint::Tcp { host, port } => {
            let secured = prepare(host)?;
            let tcp = connect_tcp(endpoint, host, *port).await?;
            let Some((connector, name)) = secured else {
                return Ok(Stream::Tcp(tcp));
            };
            shaking_hands.store(true, Ordering::Relaxed);
            let stream = connector.connect(name, tcp).await.map_err(handshake)?;
            Ok(Stream::Tls(Box::new(stream)))
        }
        Endpoint::Unix(path) => {
            let secured = prepare("localhost")?;
            let unix = UnixStream::connect(path)
                .await
                .map_err(|cause| ConnectError::Refused {
                    endpoint: endpoint.clone(),
                    cause,
                })?;
            let Some((connector, name)) = secured else {
                return Ok(Stream::Unix(unix));
            };
            shaking_hands.store(true, Ordering::Relaxed);
            let stream = connector.connect(name, unix).await.map_err(handshake)?;
            Ok(Stream::TlsUnix(Box::new(stream)))
        }
    }
}

async fn connect_tcp(
    endpoint: &Endpoint,
    host: &str,
    port: u16,
) -> Result<TcpStream, ConnectError> {
    let resolving = async { Ok(lookup_host((host, port)).await?.collect()) };
    connect_to_any(endpoint, host, resolving).await
}

/// Connects to the first address that accepts, of those that `host` has now.
async fn connect_to_any(
    endpoint: &Endpoint,
    host: &str,
    resolving: impl Future<Output = io::Result<Vec<SocketAddr>>>,
) -> Result<TcpStream, ConnectError> {
    let addresses = resolving.await.map_err(|cause| ConnectError::Resolve {
        host: host.to_owned(),
        cause,
    })?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no addresses");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => match tune(&tcp) {
                Ok(()) => return Ok(tcp),
                Err(cause) => last = cause,
            },
            Err(cause) => last = cause,
        }
    }
    Err(ConnectError::Refused {
        endpoint: endpoint.clone(),
        cause: last,
    })
}

/// Nobody is at the other end when nothing that was sent is confirmed for this long, data and keepalive probes alike.
const UNCONFIRMED: Duration = Duration::from_secs(60);

/// No delay, and a dead peer noticed within [`UNCONFIRMED`], whether data is on its way or not: without the second
/// limit the kernel sends data again for a quarter of an hour, and no probes meanwhile.
fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5));
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNCONFIRMED))
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::TlsUnix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::TlsUnix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for text in [
            "db.example:6379",
            "127.0.0.1:1",
            "[::1]:6380",
            "unix:/run/r.sock",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!(
            "/run/r.sock".parse::<Endpoint>().unwrap(),
            Endpoint::Unix("/run/r.sock".into())
        );
    }

    #[test]
    fn a_text_that_is_no_address_says_what_is_missing() {
        for (text, what) in [
            ("db", "the port is missing"),
            (":6379", "the host is missing"),
            ("::1:6379", "an IPv6 address must stand in brackets"),
            ("[::1]", "an address in brackets without \"]:port\""),
            ("[db]:1", "not an IPv6 address in the brackets"),
            ("db:0", "the port is not a number from 1 to 65535"),
            ("db:99999", "the port is not a number from 1 to 65535"),
            ("redis://db:1", "not a host name"),
            ("unix:r.sock", "the socket's path is not absolute"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap_err().0, what, "{text}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_probed_and_given_up_when_nothing_is_confirmed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let stream = connect(&endpoint, None, Duration::from_secs(5)).await;
        let Stream::Tcp(tcp) = stream.unwrap() else {
            panic!("not TCP");
        };
        let socket = SockRef::from(&tcp);
        assert!(socket.keepalive().unwrap() && tcp.nodelay().unwrap());
        let probing = (
            socket.tcp_keepalive_time().unwrap(),
            socket.tcp_keepalive_interval().unwrap(),
        );
        assert_eq!(probing, (Duration::from_secs(10), Duration::from_secs(5)));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNCONFIRMED));
    }

    #[tokio::test]
    async fn the_addresses_of_a_name_are_tried_in_turn_and_an_error_names_the_endpoint() {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = gone.local_addr().unwrap();
        drop(gone);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let endpoint = "db.example:6379".parse().unwrap();
        let connecting = |addresses: Vec<SocketAddr>| {
            let resolving = async move { Ok(addresses) };
            connect_to_any(&endpoint, "db.example", resolving)
        };
        let tcp = connecting(vec![closed, open]).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), open);
        let error = connecting(vec![closed]).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot connect to db.example:6379");
        let error = connecting(Vec::new()).await.unwrap_err();
        assert!(error.is_temporary(), "the name may get addresses");
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_by_name() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let endpoint: Endpoint = address.parse().unwrap();
        let error = connect(&endpoint, None, Duration::from_secs(5))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), format!("cannot connect to {address}"));
        assert!(error.is_temporary());
    }
}
