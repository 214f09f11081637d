//! Shared by the commands that talk to a service: the app to sign for, and the service's address.

use std::error::Error;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};

use super::{Failure, Load};
use crate::callback::ids::{AppName, Millis};
use crate::callback::netease::{Netease, NeteaseRules};
use crate::callback::{Credentials, Provider};
use crate::config::Config;
use crate::ingest::App;
use crate::words::without_os_codes;

/// The environment variable for an app's secret, used without a configuration.
const SECRET_VARIABLE: &str = "IM_CALLBACK_APP_SECRET";

/// The app to sign for. Its secret comes from the configuration, a file or the environment, never from the command
/// line, which other users of the machine can read.
#[derive(clap::Args, Debug)]
pub struct SignerArgs {
    /// App to sign for; needed when several are configured
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Sign with the secret in this file instead of the app's first configured one; without a configuration, the
    /// variable IM_CALLBACK_APP_SECRET can contain the secret instead
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// App key to send instead of the configured one
    #[arg(long, value_name = "KEY")]
    app_key: Option<String>,
    /// Path below the app's address, for a provider that has one for each kind of event, such as message
    #[arg(long, value_name = "PATH")]
    route: Option<String>,
}

/// An app to sign for.
pub struct Signer {
    /// The app's name, if known.
    app: Option<String>,
    /// Its provider, with the key and the secret to sign with.
    provider: Provider,
    /// The path below the app, for a provider that has one for each kind of event.
    route: String,
    /// The configured address to listen on, if there is a configuration.
    base_url: Option<String>,
}

impl SignerArgs {
    /// Finds the app's secret and settings.
    pub fn signer(&self, load: impl Load, has_config: bool) -> Result<Signer, Failure> {
        let from_file = self.secret_file.as_deref().map(read_secret).transpose()?;
        let route = self.route.clone().unwrap_or_default();
        if !has_config {
            let secret = from_file.or_else(|| secret_variable(SECRET_VARIABLE));
            let secret = secret.ok_or_else(|| {
                usage("no app to sign for; give --config, --secret-file or IM_CALLBACK_APP_SECRET")
            })?;
            return Ok(Signer {
                app: self.app.clone(),
                provider: Provider::Netease(Netease {
                    credentials: Credentials {
                        app_key: self.app_key.clone().unwrap_or_default(),
                        secrets: vec![secret],
                    },
                    freshness: None,
                    rules: NeteaseRules::default(),
                }),
                route,
                base_url: None,
            });
        }
        let config = load(&[])?;
        let base_url = Some(base_url(&config));
        let mut apps = config.apps;
        let found = match (&self.app, apps.len()) {
            (None, 1) => 0,
            (None, _) => {
                let names: Vec<_> = apps.iter().map(|app| app.app.name.to_string()).collect();
                let names = names.join(", ");
                return Err(usage(&format!(
                    "several apps are configured; choose one with --app: {names}"
                )));
            }
            (Some(name), _) => apps
                .iter()
                .position(|app| app.app.name.as_str() == name)
                .ok_or_else(|| unknown_app(name, apps.iter().map(|app| &app.app.name)))?,
        };
        let App {
            name, mut provider, ..
        } = apps.swap_remove(found).app;
        let mut credentials = provider.credentials().clone();
        if let Some(secret) = from_file {
            credentials.secrets = vec![secret];
        }
        if let Some(app_key) = &self.app_key {
            credentials.app_key.clone_from(app_key);
        }
        provider.set_credentials(credentials);
        match (provider.route_pattern(), route.as_str()) {
            ("", "") => {}
            ("", _) => {
                return Err(usage(
                    "this app's callbacks have one address, so no --route",
                ));
            }
            (_, "") => {
                return Err(usage(
                    "each kind of event has its own address; give --route, such as message",
                ));
            }
            _ => {}
        }
        Ok(Signer {
            app: Some(name.to_string()),
            provider,
            route,
            base_url,
        })
    }
}

/// A secret from the environment; an empty variable counts as unset.
pub fn secret_variable(name: &str) -> Option<SecretString> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(SecretString::from(value))
}

/// A usage error.
pub fn usage(message: &str) -> Failure {
    Failure::Usage(anyhow!("{message}"))
}

/// Parses an `http` or `https` address.
pub fn web_address(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        // Messages show the address.
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err("write the address without a user and a password".to_owned())
        }
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Ok(text.to_owned())
        }
        _ => Err("write an address such as http://127.0.0.1:8080".to_owned()),
    }
}

/// What to do when nothing listens at an address.
pub const NOBODY_LISTENS: &str =
    "is the service running? start it with `im-callback serve`, or give its address with --url";

/// How long an answer may take.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// That there was no answer, why, and what to do.
pub fn no_answer_from(url: &str, error: &reqwest::Error) -> anyhow::Error {
    let why = no_answer(error);
    match refused(error) {
        true => anyhow!("no answer from {url}: {why}; {NOBODY_LISTENS}"),
        false => anyhow!("no answer from {url}: {why}"),
    }
}

/// Why there was no answer: the last cause, which is the system's.
pub fn no_answer(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it took too long".to_owned();
    }
    let last = causes(error).last();
    let last = without_os_codes(&last.map(ToString::to_string).unwrap_or_default());
    let is_https = error.url().is_some_and(|url| url.scheme() == "https");
    let is_of_system = io_errors(error).any(|error| error.raw_os_error().is_some());
    if is_https && error.is_connect() && !is_of_system {
        return format!("TLS failed: {last}");
    }
    // The system begins with a capital letter.
    let mut letters = last.chars();
    let first = letters.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

/// Whether nothing listens at the address.
pub fn refused(error: &reqwest::Error) -> bool {
    io_errors(error).any(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn io_errors(error: &reqwest::Error) -> impl Iterator<Item = &std::io::Error> {
    causes(error).filter_map(|cause| cause.downcast_ref())
}

/// The error itself and its causes.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |cause| (*cause).source())
}

/// An app of this name is not configured.
pub fn unknown_app<'a>(name: &str, configured: impl Iterator<Item = &'a AppName>) -> Failure {
    let names: Vec<_> = configured.map(|name| format!("`{name}`")).collect();
    let names = names.join(", ");
    usage(&format!(
        "no app named `{name}` is configured, only {names}"
    ))
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

    /// Signs a body: the address to send it to, and its headers.
    pub fn sign(&self, url: &str, body: &[u8], now: Millis) -> (String, HeaderList) {
        let signed = self.provider.sign(body, &self.route, now);
        let mut url = match signed.path.as_str() {
            "" => url.to_owned(),
            below => format!("{}{below}", url.trim_end_matches('/')),
        };
        if !signed.query.is_empty() {
            url = format!("{url}?{}", signed.query);
        }
        (url, signed.headers)
    }
}

/// Names and values of headers.
pub type HeaderList = Vec<(&'static str, String)>;

/// The address at which this machine reaches the configured service.
pub fn base_url(config: &Config) -> String {
    reachable(config.http.listen)
}

/// The address at which this machine reaches a service that listens there.
pub fn reachable(mut listen: SocketAddr) -> String {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("http://{listen}")
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

/// This machine's time.
pub fn now() -> anyhow::Result<Millis> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    i64::try_from(since.as_millis())
        .ok()
        .and_then(Millis::new)
        .context("the clock is wrong")
}

/// An HTTP client.
pub fn http(timeout: Duration) -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(concat!("im-callback/", env!("CARGO_PKG_VERSION")))
        .timeout(timeout)
        // A request has a key or a signature, which must go to the given address and no other.
        .redirect(Policy::none())
        .no_proxy()
        .build()
        .context("cannot make an HTTP client")
}
