//! A private key that never leaves AWS KMS. Only with the feature `kms`: AWS's SDK takes minutes to compile.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_kms::Client;
use aws_sdk_kms::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{MessageType, SigningAlgorithmSpec};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use eif::eif::signature::{Algorithm, Error, PublicKey, SigningKey};
use tokio::runtime::Runtime;

/// The longest that one call may take, with all its repetitions.
const PATIENCE: Duration = Duration::from_secs(60);

/// A key pair of KMS, of which the public key is known here.
pub struct Key {
    runtime: Runtime,
    client: Client,
    arn: String,
    public_key: PublicKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arn)
    }
}

impl Key {
    /// Asks KMS for the public key. Credentials and endpoint are those that AWS's SDK finds: environment, profiles,
    /// the instance's role. Needs the permissions `kms:GetPublicKey` and `kms:Sign`.
    pub fn find(arn: &str, region: &str) -> Result<Arc<Self>, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::Holder(error.to_string()))?;
        let client = runtime.block_on(client(region));
        let answer = runtime.block_on(client.get_public_key().key_id(arn).send());
        let answer = answer.map_err(|error| refused("GetPublicKey", &error))?;
        let der = answer.public_key().ok_or_else(|| Error::Holder("GetPublicKey gave no key".to_owned()))?;
        let public_key = PublicKey::from_der(der.as_ref())?;
        Ok(Arc::new(Self { runtime, client, arn: arn.to_owned(), public_key }))
    }
}

impl SigningKey for Key {
    fn public_key(&self) -> PublicKey {
        self.public_key.clone()
    }

    /// KMS draws the number that RFC 6979 derives, so each signature is another one.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let algorithm = self.public_key.algorithm();
        let call = self.client.sign().key_id(&self.arn).message(Blob::new(message)).message_type(MessageType::Raw);
        let call = call.signing_algorithm(match algorithm {
            Algorithm::Es256 => SigningAlgorithmSpec::EcdsaSha256,
            Algorithm::Es384 => SigningAlgorithmSpec::EcdsaSha384,
            Algorithm::Es512 => SigningAlgorithmSpec::EcdsaSha512,
        });
        let answer = self.runtime.block_on(call.send()).map_err(|error| refused("Sign", &error))?;
        let signature = answer.signature().and_then(|der| raw(algorithm, der.as_ref()));
        signature.ok_or_else(|| Error::Holder("Sign gave no signature in DER".to_owned()))
    }
}

/// TLS by rustls with ring, as everywhere in `eif`.
async fn client(region: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let config = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::new(region.to_owned()))
        .timeout_config(TimeoutConfig::builder().operation_timeout(PATIENCE).build())
        .load()
        .await;
    Client::new(&config)
}

/// What KMS says, or why it could not be asked.
fn refused<E, R>(call: &str, error: &SdkError<E, R>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: fmt::Debug,
{
    match (error.code(), error.message()) {
        (Some(code), message) => Error::Holder(format!("{call}: {code}: {}", message.unwrap_or("no reason given"))),
        _ => Error::Holder(format!("{call}: {}", DisplayErrorContext(error))),
    }
}

/// `r` and `s` of an ECDSA-Sig-Value (RFC 3279).
fn raw(algorithm: Algorithm, der: &[u8]) -> Option<Vec<u8>> {
    match algorithm {
        Algorithm::Es256 => p256::ecdsa::Signature::from_der(der).map(|signature| signature.to_vec()).ok(),
        Algorithm::Es384 => p384::ecdsa::Signature::from_der(der).map(|signature| signature.to_vec()).ok(),
        Algorithm::Es512 => p521::ecdsa::Signature::from_der(der).map(|signature| signature.to_vec()).ok(),
    }
}
