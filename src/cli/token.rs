//! `im-callback token`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use jiff::SignedDuration;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use secrecy::ExposeSecret;

use super::client::{now, read_secret, unknown_app, usage};
use super::{Failure, Load};
use crate::auth::{AuthError, NewToken, SignError, TokenFault, TokenKey, TokenKeys, TokenSecret};
use crate::config::Config;

#[derive(clap::Args, Debug)]
pub struct TokenArgs {
    /// The user's account: the token asks about this user alone
    #[arg(long, short, value_name = "ACCOUNT")]
    user: String,
    /// The user's app; needed when several are possible
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// A team that the user may ask about; several with commas or repeated
    #[arg(long, value_name = "TEAM", value_delimiter = ',')]
    team: Vec<String>,
    /// How long the token is valid, up to auth.max_token_age
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = length_of_time)]
    lasts: Duration,
    /// Token key to sign with; the first fitting one without it
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// File with the private half of an EdDSA key, in PEM
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
}

pub fn run(args: &TokenArgs, load: impl Load) -> Result<(), Failure> {
    let config = load(&[])?;
    if args.user.is_empty() {
        return Err(usage("the user's account is empty"));
    }
    if let Some(app) = &args.app
        && config
            .apps
            .iter()
            .all(|known| known.app.name.as_str() != app)
    {
        return Err(unknown_app(
            app,
            config.apps.iter().map(|app| &app.app.name),
        ));
    }
    let longest = config.tokens.max_age();
    if args.lasts > longest {
        let longest = SignedDuration::try_from(longest).unwrap_or_default();
        return Err(usage(&format!(
            "--for is longer than auth.max_token_age, which is {longest:#}"
        )));
    }
    let key = key(args, &config)?;
    if args.app.is_none() && key.only_app().is_none() {
        return Err(usage(&format!(
            "the token key `{}` is for several apps; choose one with --app",
            key.name()
        )));
    }
    let private = args.private_key.as_deref().map(private_key).transpose()?;
    let issued_at = now()?.get() as u64 / 1000;
    let token = NewToken {
        user: &args.user,
        app: args.app.as_deref(),
        teams: &args.team,
        issued_at,
        expires_at: issued_at + args.lasts.as_secs(),
    };
    let private = private.as_ref().map(PrivatePkcs8KeyDer::secret_pkcs8_der);
    let token = token.signed(key, private).map_err(|error| match error {
        SignError::NoPrivateKey => usage(&needs_private_key(key)),
        SignError::BadPrivateKey => anyhow!("the private key is no Ed25519 key in PKCS #8").into(),
    })?;
    // As the service will check it: with another key's private half it would be refused.
    config.tokens.verify(&token, issued_at).map_err(|error| {
        let why = format!("the service would refuse the token: {error}");
        match error {
            // Only a private half can be another key's.
            AuthError::InvalidToken {
                fault: TokenFault::Signature,
                ..
            } => {
                anyhow!("{why}; is the private key that of `{}`?", key.name())
            }
            _ => anyhow!(why),
        }
    })?;
    writeln!(std::io::stdout(), "{token}").context("cannot print")?;
    Ok(())
}

/// The token key to sign with.
fn key<'c>(args: &TokenArgs, config: &'c Config) -> Result<&'c TokenKey, Failure> {
    let keys: &TokenKeys = &config.tokens;
    if keys.is_empty() {
        return Err(usage(
            "no token key is configured; add an [[auth.token_keys]] section, and give --config",
        ));
    }
    if let Some(name) = &args.key {
        let named = keys.iter().find(|key| key.name() == name);
        let key = named.ok_or_else(|| usage(&format!("no token key is named `{name}`")))?;
        return match &args.app {
            Some(app) if !key.is_for(app) => Err(usage(&format!(
                "the token key `{name}` is not for the app `{app}`"
            ))),
            _ => Ok(key),
        };
    }
    // Without an app, the key has to say which.
    let is_for = |key: &&TokenKey| match &args.app {
        Some(app) => key.is_for(app),
        None => key.only_app().is_some(),
    };
    let mut fitting = keys.iter().filter(is_for).peekable();
    let first = fitting.peek().copied();
    // Without a private half only a shared secret can sign.
    let wants_eddsa = args.private_key.is_some();
    let found = fitting.find(|key| matches!(key.secret(), TokenSecret::EdDsa(_)) == wants_eddsa);
    match (found, first) {
        (Some(key), _) => Ok(key),
        (None, Some(first)) if !wants_eddsa => Err(usage(&needs_private_key(first))),
        (None, Some(_)) => Err(usage(
            "no token key for the app is one of EdDSA; leave out --private-key",
        )),
        (None, None) if args.app.is_none() => Err(usage(
            "every token key is for several apps; choose one with --app",
        )),
        (None, None) => Err(usage("no token key is for the app")),
    }
}

fn needs_private_key(key: &TokenKey) -> String {
    format!(
        "the token key `{}` is one of EdDSA, and the service has its public half alone; give the site's private half \
         with --private-key, or let the site make the token",
        key.name()
    )
}

fn private_key(path: &Path) -> anyhow::Result<PrivatePkcs8KeyDer<'static>> {
    let pem = read_secret(path)?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.expose_secret().as_bytes());
    // The library's own text may quote the file.
    key.map_err(|_| {
        anyhow!(
            "{} has no private key in PEM (-----BEGIN PRIVATE KEY-----)",
            path.display()
        )
    })
}

fn length_of_time(text: &str) -> Result<Duration, &'static str> {
    let time = text.parse::<SignedDuration>().ok();
    let time = time.and_then(|time| Duration::try_from(time).ok());
    let time = time.filter(|time| time.as_secs() > 0);
    time.ok_or("write a length of time, such as 10m")
}
