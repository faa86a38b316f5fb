//! TLS in front of any server: accepts TLS connections and passes their bytes on in the clear.
//!
//! Invariants: its certificate is made anew each time, for `localhost` and 127.0.0.1, by an authority of its own,
//!   so that tests can check both trust and distrust.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// A proxy that ends TLS. Dropping it ends its connections.
pub struct TlsProxy {
    addr: SocketAddr,
    dir: TempDir,
    /// Dropping it ends the proxy's tasks.
    _runtime: Runtime,
}

impl TlsProxy {
    /// In front of a port of 127.0.0.1, for clients with or without a certificate.
    ///
    /// # Panics
    /// When it cannot be set up.
    #[must_use]
    #[track_caller]
    pub fn start(upstream: u16) -> Self {
        Self::build(upstream, false)
    }

    /// The same, and clients must show a certificate of its authority: [`TlsProxy::client_cert`].
    ///
    /// # Panics
    /// When it cannot be set up.
    #[must_use]
    #[track_caller]
    pub fn start_with_client_auth(upstream: u16) -> Self {
        Self::build(upstream, true)
    }

    #[track_caller]
    fn build(upstream: u16, client_auth: bool) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory for certificates");
        let config = Arc::new(config(&dir, client_auth));
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind(("127.0.0.1", 0)))
            .expect("a free port on 127.0.0.1");
        let addr = listener.local_addr().expect("the address of a listener");
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(Arc::clone(&config));
                tokio::spawn(async move {
                    // A client that distrusts us, or that we distrust, is simply not served.
                    let Ok(mut client) = acceptor.accept(socket).await else {
                        return;
                    };
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else {
                        return;
                    };
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self {
            addr,
            dir,
            _runtime: runtime,
        }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// The certificate of its authority, PEM.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A client's certificate, PEM.
    #[must_use]
    pub fn client_cert(&self) -> PathBuf {
        self.dir.path().join("client.pem")
    }

    /// The key that belongs to [`TlsProxy::client_cert`], PEM.
    #[must_use]
    pub fn client_key(&self) -> PathBuf {
        self.dir.path().join("client.key")
    }
}

fn config(dir: &TempDir, client_auth: bool) -> ServerConfig {
    let mut about =
        CertificateParams::new(Vec::<String>::new()).expect("parameters of an authority");
    about.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(about, KeyPair::generate().expect("a key"))
        .expect("an authority");
    let sign = |names: &[&str]| {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let about = CertificateParams::new(names).expect("parameters of a certificate");
        (
            about.signed_by(&key, &authority).expect("a certificate"),
            key,
        )
    };
    let (server, server_key) = sign(&["localhost", "127.0.0.1"]);
    let (client, client_key) = sign(&["client"]);
    let write = |name: &str, text: String| {
        fs::write(dir.path().join(name), text).expect("a file for a certificate")
    };
    write("ca.pem", authority.pem());
    write("client.pem", client.pem());
    write("client.key", client_key.serialize_pem());
    let builder = ServerConfig::builder();
    let builder = if client_auth {
        let mut roots = RootCertStore::empty();
        roots
            .add(authority.der().clone())
            .expect("an authority to trust");
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .build()
            .expect("a verifier");
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = server_key
        .serialize_der()
        .try_into()
        .expect("a private key");
    builder
        .with_single_cert(vec![server.der().clone()], key)
        .expect("a certificate that fits its key")
}
