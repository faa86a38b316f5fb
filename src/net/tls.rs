//! TLS settings, and what rustls makes of them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// How the server's certificate is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// Against the certificates in this PEM file.
    Ca(PathBuf),
    /// Against the system's certificates.
    System,
    /// Not at all: anybody in between can read and change everything.
    Nothing,
}

/// TLS for one side of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// How the server's certificate is judged.
    pub verification: Verification,
    /// Client certificate chain and key, PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name the certificate must carry, instead of the host.
    pub server_name: Option<String>,
}

/// What is wrong with TLS settings.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file is missing, unreadable or not PEM.
    #[error("cannot read {what} from {}: {cause}", .path.display())]
    Pem {
        /// What the file should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        cause: rustls_pki_types::pem::Error,
    },
    /// A PEM file without any certificate.
    #[error("{} holds no certificate", .0.display())]
    Empty(PathBuf),
    /// No usable certificates of the system were found.
    #[error("the system has no CA certificates in the usual places; name a CA file")]
    NoSystemRoots,
    /// The name to verify is no DNS name or address.
    #[error("\"{0}\" is not a name a certificate can carry; set server_name")]
    Name(String),
    /// rustls refuses the certificates or the key.
    #[error("the certificates or the key cannot be used: {0}")]
    Rustls(#[from] Error),
}

/// Where Debian, Fedora, Alpine and SUSE keep their bundle.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

impl TlsSettings {
    /// Reads the files and yields what connects; `host` is the name to verify if none is set.
    pub(super) fn prepare(
        &self,
        host: &str,
    ) -> Result<(TlsConnector, ServerName<'static>), TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match &self.verification {
            Verification::Ca(path) => builder.with_root_certificates(roots(path)?),
            Verification::System => {
                let path = SYSTEM_BUNDLES
                    .iter()
                    .map(Path::new)
                    .find(|path| path.exists())
                    .ok_or(TlsError::NoSystemRoots)?;
                builder.with_root_certificates(roots(path)?)
            }
            Verification::Nothing => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified(provider))),
        };
        let config = match &self.identity {
            Some((chain, key)) => {
                builder.with_client_auth_cert(certificates(chain)?, private_key(key)?)?
            }
            None => builder.with_no_client_auth(),
        };
        let name = self.server_name.as_deref().unwrap_or(host);
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
        Ok((TlsConnector::from(Arc::new(config)), name))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |cause| TlsError::Pem {
        what: "certificates",
        path: path.to_owned(),
        cause,
    };
    let found = CertificateDer::pem_file_iter(path)
        .map_err(pem)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem)?;
    if found.is_empty() {
        return Err(TlsError::Empty(path.to_owned()));
    }
    Ok(found)
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate)?;
    }
    Ok(store)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|cause| TlsError::Pem {
        what: "a private key",
        path: path.to_owned(),
        cause,
    })
}

/// Accepts any certificate; signatures are still checked, so the peer at least holds its key.
struct Unverified(Arc<CryptoProvider>);

impl fmt::Debug for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unverified")
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
