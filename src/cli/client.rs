//! Shared by the commands that talk to a service: the app to sign for, and the service's address.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use secrecy::{ExposeSecret, SecretString};

use super::{Failure, Load};
use crate::callback::ids::Millis;
use crate::config::Config;

/// The environment variable with an app's secret, for use without a configuration.
const SECRET_VARIABLE: &str = "IM_CALLBACK_APP_SECRET";

/// The app to sign for. The secret comes from the configuration, a file or the environment, never from the command
/// line, where other users of the machine could read it.
#[derive(clap::Args, Debug)]
pub struct SignerArgs {
    /// App to sign for; needed when several are configured
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Sign with the secret in this file instead of the app's first configured one; without a
    /// configuration the variable IM_CALLBACK_APP_SECRET may hold it as well
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// AppKey header to send, instead of the configured one
    #[arg(long, value_name = "KEY")]
    app_key: Option<String>,
}

/// An app to sign for.
pub struct Signer {
    /// The app's name, if known.
    pub app: Option<String>,
    /// The `AppKey` header, if known.
    pub app_key: Option<String>,
    /// The secret.
    pub secret: SecretString,
    /// The configured address to listen on, if there is a configuration.
    pub base_url: Option<String>,
}

impl SignerArgs {
    /// Finds the secret and the app's settings.
    pub fn signer(&self, load: impl Load, has_config: bool) -> Result<Signer, Failure> {
        let from_file = self.secret_file.as_deref().map(read_secret).transpose()?;
        if !has_config {
            let secret = from_file.or_else(|| secret_variable(SECRET_VARIABLE));
            let secret = secret.ok_or_else(|| {
                usage(
                    "whose callback is it? give --config, --secret-file or IM_CALLBACK_APP_SECRET",
                )
            })?;
            return Ok(Signer {
                app: self.app.clone(),
                app_key: self.app_key.clone(),
                secret,
                base_url: None,
            });
        }
        let config = load(&[])?;
        let configured = match (&self.app, config.apps.as_slice()) {
            (None, [only]) => only,
            (None, _) => return Err(usage("several apps are configured; choose one with --app")),
            (Some(name), apps) => apps
                .iter()
                .find(|app| app.app.name.as_str() == name)
                .ok_or_else(|| usage(&format!("no app named `{name}` is configured")))?,
        };
        let secret = from_file.or_else(|| configured.app.verifier.secrets.first().cloned());
        Ok(Signer {
            app: Some(configured.app.name.to_string()),
            app_key: Some(self.app_key.clone().unwrap_or(configured.app_key.clone())),
            secret: secret.ok_or_else(|| usage("the app has no secret"))?,
            base_url: Some(base_url(&config)),
        })
    }
}

/// A secret from the environment; an empty variable is none.
pub fn secret_variable(name: &str) -> Option<SecretString> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(SecretString::from(value))
}

/// A usage error.
pub fn usage(message: &str) -> Failure {
    Failure::Usage(anyhow!("{message}"))
}

/// An `http` or `https` address given on the command line.
pub fn web_address(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Ok(text.to_owned())
        }
        _ => Err("write an address such as http://127.0.0.1:8080".to_owned()),
    }
}

/// Why a request was not answered, with all causes.
pub fn no_answer(error: reqwest::Error) -> String {
    format!("no answer: {:#}", anyhow!(error.without_url()))
}

impl Signer {
    /// The callback address: the given one, or the app's address at the configured service.
    pub fn callback_url(&self, given: Option<&str>) -> Result<String, Failure> {
        match (given, &self.base_url, &self.app) {
            (Some(url), _, _) => Ok(url.to_owned()),
            (None, Some(base), Some(app)) => Ok(format!("{base}/callbacks/{app}")),
            (None, _, _) => Err(usage("without a configuration, give --url")),
        }
    }

    /// The headers of a signed callback.
    pub fn headers(&self, body: &[u8], cur_time: Millis) -> Vec<(&'static str, String)> {
        use crate::callback::netease::{sign, signature as names};
        let signature = sign(body, &self.secret, cur_time);
        let mut headers = vec![("Content-Type", "application/json".to_owned())];
        headers.extend(self.app_key.clone().map(|key| (names::APP_KEY, key)));
        headers.extend([
            (names::CUR_TIME, signature.cur_time),
            (names::MD5, signature.md5),
            (names::CHECKSUM, signature.checksum),
        ]);
        headers
    }
}

/// The address at which this machine reaches the configured service.
pub fn base_url(config: &Config) -> String {
    let mut address = config.http.listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    format!("http://{address}")
}

/// Reads a secret from a file, without a trailing newline.
pub fn read_secret(path: &Path) -> anyhow::Result<SecretString> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let secret = SecretString::from(text.trim_end_matches(['\r', '\n']));
    if secret.expose_secret().is_empty() {
        bail!("{} is empty", path.display());
    }
    Ok(secret)
}

/// The time by this machine's clock.
pub fn now() -> anyhow::Result<Millis> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    i64::try_from(since.as_millis())
        .ok()
        .and_then(Millis::new)
        .context("the clock is off")
}

/// A client with timeouts.
pub fn http() -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(concat!("im-callback/", env!("CARGO_PKG_VERSION")))
        .timeout(Duration::from_secs(15))
        // No redirects: a query carries its key, which must not go to another address.
        .no_proxy()
        .build()
        .context("cannot make an HTTP client")
}
