//! TLS: the node's certificate, and whom verbs trust.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::problem::Problem;

/// How often it is looked whether the certificate was renewed.
const LOOK: Duration = Duration::from_secs(60);

/// A node's certificate. When its files change, connections from then on have the new one.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<(Option<SystemTime>, TlsAcceptor)>,
}

impl Tls {
    /// Reads a certificate chain and its private key, both PEM.
    ///
    /// # Errors
    /// When a file cannot be read, or the two don't belong together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, Problem> {
        let current = RwLock::new((changed(certificate, key), acceptor(certificate, key)?));
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), current })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Reads the files again whenever they have changed.
    pub(crate) async fn renew(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let tls = self.clone();
            drop(tokio::task::spawn_blocking(move || tls.look()).await);
        }
    }

    fn look(&self) {
        let changed = changed(&self.certificate, &self.key);
        if changed == self.current.read().unwrap_or_else(PoisonError::into_inner).0 {
            return;
        }
        // One file may have been replaced, and the other not yet: then the next look finds both.
        match acceptor(&self.certificate, &self.key) {
            Ok(acceptor) => {
                tracing::info!(certificate = %self.certificate.display(), "a new certificate is in use");
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = (changed, acceptor);
            }
            Err(problem) => tracing::warn!("the certificate before stays in use: {}", problem.detail),
        }
    }
}

/// When one of the files was written last.
fn changed(certificate: &Path, key: &Path) -> Option<SystemTime> {
    let time = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    time(certificate).max(time(key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let refused =
        |what: &dyn std::fmt::Display| Problem::bad_request(format!("no certificate: {}: {what}", path.display()));
    let pem = fs::read(path).map_err(|error| refused(&error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| refused(&error))?;
    if found.is_empty() { Err(refused(&"there is none in this file; it should be PEM")) } else { Ok(found) }
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, Problem> {
    let chain = certificates(certificate)?;
    let refused =
        |what: &dyn std::fmt::Display| Problem::bad_request(format!("no private key: {}: {what}", key.display()));
    let pem = fs::read(key).map_err(|error| refused(&error))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| refused(&error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| Problem::bad_request(format!("this certificate and this key cannot be used: {error}")))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Trusts those that the system trusts, or those only that a file names.
pub(crate) fn connector(ca: Option<&Path>) -> Result<TlsConnector, Problem> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                let refused = |error| Problem::bad_request(format!("{}: {error}", path.display()));
                roots.add(certificate).map_err(refused)?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Problem::connection)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
