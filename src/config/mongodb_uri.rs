//! Says what is wrong with a MongoDB connection string. The driver's own words may quote a part of it, and so a
//! password; these name at most an option.

use std::path::Path;

use futures_util::FutureExt;
use mongodb::options::{Acknowledgment, AuthMechanism, ClientOptions, ConnectionString, Tls};

use super::hints::most_similar;
use crate::words::without_os_codes;

/// The options, each with a value of the right form.
const OPTIONS: &[(&str, &str)] = &[
    ("appName", "im-callback"),
    ("authMechanism", "SCRAM-SHA-256"),
    ("authMechanismProperties", "SERVICE_NAME:mongodb"),
    ("authSource", "admin"),
    ("connectTimeoutMS", "2000"),
    ("directConnection", "false"),
    ("enableOverloadRetargeting", "true"),
    ("heartbeatFrequencyMS", "1000"),
    ("journal", "true"),
    ("loadBalanced", "false"),
    ("localThresholdMS", "15"),
    ("maxAdaptiveRetries", "2"),
    ("maxConnecting", "2"),
    ("maxIdleTimeMS", "60000"),
    ("maxPoolSize", "64"),
    ("maxStalenessSeconds", "90"),
    ("minPoolSize", "1"),
    ("readConcernLevel", "majority"),
    ("readPreference", "primary"),
    ("readPreferenceTags", "dc:ny"),
    ("replicaSet", "rs0"),
    ("retryReads", "true"),
    ("retryWrites", "true"),
    ("serverMonitoringMode", "auto"),
    ("serverSelectionTimeoutMS", "2000"),
    ("srvMaxHosts", "3"),
    ("srvServiceName", "mongodb"),
    ("ssl", "true"),
    ("tls", "true"),
    ("tlsAllowInvalidCertificates", "false"),
    ("tlsCAFile", "/etc/ssl/mongodb-ca.pem"),
    ("tlsCertificateKeyFile", "/etc/ssl/mongodb-client.pem"),
    ("tlsInsecure", "false"),
    ("uuidRepresentation", "javaLegacy"),
    ("w", "majority"),
    ("waitQueueTimeoutMS", "2000"),
    ("wtimeoutMS", "2000"),
];

/// Options of other drivers and other builds of this one.
const UNSUPPORTED: &[&str] = &[
    "compressors",
    "proxyHost",
    "proxyPassword",
    "proxyPort",
    "proxyUsername",
    "socketTimeoutMS",
    "timeoutMS",
    "tlsAllowInvalidHostnames",
    "tlsCertificateKeyFilePassword",
    "tlsDisableCertificateRevocationCheck",
    "tlsDisableOCSPEndpointCheck",
    "zlibCompressionLevel",
];

/// What is wrong with a connection string, if the driver cannot use it or cannot log in with it.
pub(super) fn fault(uri: &str) -> Option<String> {
    // The driver would take a space at the end for a part of the last option.
    if uri.trim() != uri {
        return Some("has spaces or line breaks around it".to_owned());
    }
    if is_unacknowledged(uri) {
        return Some(
            "sets w=0, which asks MongoDB to confirm nothing; remove it: callbacks wait for a majority and its journal"
                .to_owned(),
        );
    }
    if let Some(parsed) = parsed(uri) {
        return unusable(&parsed);
    }
    let parts = match UriParts::of(uri) {
        Ok(parts) => parts,
        Err(fault) => return Some(fault),
    };
    let found = parts.user().or_else(|| parts.hosts());
    let found = found.or_else(|| parts.unknown_option());
    let found = found.or_else(|| parts.wrong_option());
    Some(found.unwrap_or_else(|| {
        "is no MongoDB connection string; write mongodb://host:port/?replicaSet=name".to_owned()
    }))
}

/// Whether the connection string asks for no confirmation of writes.
fn is_unacknowledged(uri: &str) -> bool {
    let concern = ConnectionString::parse(uri)
        .ok()
        .and_then(|uri| uri.write_concern);
    concern.is_some_and(|concern| matches!(concern.w, Some(Acknowledgment::Nodes(0))))
}

/// A connection string that the driver can use.
fn parsed(uri: &str) -> Option<ConnectionString> {
    let parsed = ConnectionString::parse(uri).ok()?;
    // For `mongodb+srv` the options would wait for name servers; with the hosts given there is nothing to wait for.
    if !uri.starts_with("mongodb+srv") {
        let options = ClientOptions::parse(uri).into_future().now_or_never()?;
        options.ok()?;
    }
    Some(parsed)
}

/// What will fail at the first connection, each time.
fn unusable(uri: &ConnectionString) -> Option<String> {
    if let Some(credential) = &uri.credential {
        let needs_password = matches!(
            credential.mechanism,
            None | Some(AuthMechanism::ScramSha1 | AuthMechanism::ScramSha256)
        );
        if needs_password && credential.password.as_deref().is_none_or(str::is_empty) {
            return Some("names a user without a password; write user:password@".to_owned());
        }
    }
    let Some(Tls::Enabled(tls)) = &uri.tls else {
        return None;
    };
    let files = [
        ("tlsCAFile", &tls.ca_file_path),
        ("tlsCertificateKeyFile", &tls.cert_key_file_path),
    ];
    files.into_iter().find_map(|(name, path)| {
        let error = std::fs::File::open(path.as_deref().map(Path::new)?).err()?;
        let error = without_os_codes(&error.to_string());
        Some(format!(
            "names a file by `{name}` that cannot be read: {error}"
        ))
    })
}

/// A connection string, divided as the driver divides it.
struct UriParts<'u> {
    is_srv: bool,
    user_info: Option<&'u str>,
    hosts: &'u str,
    /// All before the options.
    before_options: &'u str,
    options: Vec<&'u str>,
}

impl<'u> UriParts<'u> {
    fn of(uri: &'u str) -> Result<Self, String> {
        let is_srv = uri.starts_with("mongodb+srv://");
        if !is_srv && !uri.starts_with("mongodb://") {
            return Err("must begin with mongodb:// or mongodb+srv://".to_owned());
        }
        let (before_options, options) = uri.split_once('?').unwrap_or((uri, ""));
        let (_, address) = before_options.split_once("://").unwrap_or_default();
        let (user_info, hosts) = match address.rsplit_once('@') {
            Some((user_info, hosts)) => (Some(user_info), hosts),
            None => (None, address),
        };
        // Otherwise a part of the password could be named as an option.
        if options.contains('@') {
            return Err(
                "has a `?` before an `@`; in a user or password write %3F for it".to_owned(),
            );
        }
        Ok(Self {
            is_srv,
            user_info,
            hosts: hosts.split('/').next().unwrap_or_default(),
            before_options,
            options: match options {
                "" => Vec::new(),
                options => options.split('&').collect(),
            },
        })
    }

    fn user(&self) -> Option<String> {
        let (user, password) = match self.user_info? {
            "" => ("", ""),
            user_info => user_info.split_once(':').unwrap_or((user_info, "")),
        };
        if user.is_empty() {
            return Some(
                "has an `@` without a user before it; write user:password@host".to_owned(),
            );
        }
        [("user", user), ("password", password)]
            .into_iter()
            .find_map(|(what, text)| {
                if text.contains([':', '/', '?', '#', '[', ']', '@']) {
                    return Some(format!(
                        "has one of the characters : / ? # [ ] @ in its {what}; write %3A %2F %3F %23 %5B %5D %40"
                    ));
                }
                let mut after_percent = text.split('%').skip(1);
                let is_escape =
                    |part: &str| part.len() >= 2 && part.bytes().take(2).all(|b| b.is_ascii_hexdigit());
                (!after_percent.all(is_escape)).then(|| {
                    format!("has a `%` in its {what} without two hexadecimal digits after it; write %25 for it")
                })
            })
    }

    fn hosts(&self) -> Option<String> {
        if self.hosts.is_empty() {
            return Some("names no host; write mongodb://host:port/?replicaSet=name".to_owned());
        }
        if self.is_srv {
            let what = if self.hosts.contains(',') {
                "several hosts"
            } else if self.hosts.contains(':') {
                "a port"
            } else {
                return None;
            };
            return Some(format!(
                "has {what}, but mongodb+srv takes one name alone; name servers know the hosts and their ports"
            ));
        }
        self.hosts.split(',').zip(1..).find_map(|(host, n)| {
            let after_name = match host.strip_prefix('[') {
                Some(literal) => literal.split_once(']').map_or("x", |(_, after)| after),
                None => host.find(':').map_or("", |at| &host[at..]),
            };
            if host.is_empty() || host.starts_with(':') {
                return Some(format!("has an empty name for host {n}"));
            }
            let port = after_name.strip_prefix(':');
            let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
            let is_right = after_name.is_empty() || port.is_some_and(is_port);
            (!is_right).then(|| {
                format!(
                    "has no port from 1 to 65535 after host {n}; write host:27017, and [::1]:27017 for IPv6"
                )
            })
        })
    }

    fn unknown_option(&self) -> Option<String> {
        let known: Vec<_> = OPTIONS.iter().map(|(name, _)| *name).collect();
        for option in &self.options {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
                return Some(
                    "has an option whose name is not of letters; options are written ?name=value&name=value".to_owned(),
                );
            }
            let is = |known: &&&str| known.eq_ignore_ascii_case(name);
            if let Some(name) = UNSUPPORTED.iter().find(is) {
                return Some(format!(
                    "has the option `{name}`, which is not supported; remove it"
                ));
            }
            let Some(known) = known.iter().find(is) else {
                let near = most_similar(name, &known);
                let near = near.map(|near| format!("; did you mean `{near}`?"));
                return Some(format!(
                    "has the unknown option `{name}`{}",
                    near.unwrap_or_default()
                ));
            };
            if value.is_empty() {
                return Some(format!("has no value for its option `{known}`"));
            }
        }
        None
    }

    /// The option without which the string is right, or the first with which it is wrong.
    fn wrong_option(&self) -> Option<String> {
        let is_right = |options: Vec<&str>| {
            parsed(&format!("{}?{}", self.before_options, options.join("&"))).is_some()
        };
        let others = |n: usize| {
            let all = self.options.iter().enumerate();
            all.filter(|(i, _)| *i != n).map(|(_, o)| *o).collect()
        };
        let mut numbers = 0..self.options.len();
        let wrong = numbers.clone().find(|n| is_right(others(*n)));
        let wrong = wrong.or_else(|| numbers.find(|n| !is_right(self.options[..=*n].to_vec())))?;
        let (name, _) = self.options[wrong].split_once('=')?;
        let (name, example) = OPTIONS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        let names = self.options.iter().filter_map(|o| o.split_once('='));
        if names.filter(|(n, _)| n.eq_ignore_ascii_case(name)).count() > 1 {
            return Some(format!("has its option `{name}` twice"));
        }
        Some(format!(
            "has an option `{name}` with a wrong value, or one that contradicts the rest; its form is {name}={example}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lists agree with the driver.
    #[test]
    fn the_driver_knows_the_options_and_refuses_the_others() {
        for (name, example) in OPTIONS {
            let scheme = if name.starts_with("srv") {
                "mongodb+srv"
            } else {
                "mongodb"
            };
            let with = match *name {
                "readPreferenceTags" | "maxStalenessSeconds" => "readPreference=nearest&",
                _ => "",
            };
            let uri = format!("{scheme}://u:p@h/?{with}{name}={example}");
            assert!(parsed(&uri).is_some(), "{uri}");
        }
        for name in UNSUPPORTED {
            let uri = format!("mongodb://h/?{name}=1");
            assert!(parsed(&uri).is_none(), "{uri}");
            let fault = fault(&uri).unwrap_or_default();
            assert!(
                fault.contains(&format!("`{name}`, which is not supported")),
                "{fault}"
            );
        }
    }

    #[test]
    fn good_strings_have_no_fault() {
        for uri in [
            "mongodb://127.0.0.1:27017/?replicaSet=rs0",
            "mongodb://h",
            "mongodb://h1,h2:27018,[::1]:27019/im?replicaSet=rs0&w=majority",
            "mongodb+srv://u:p%40ss@cluster.example.org/?retryWrites=true",
            "mongodb://u:p%2Fw@h/?authSource=admin",
            "mongodb://CN%3Dclient@h/?authMechanism=MONGODB-X509&tls=true",
            "mongodb://%2Ftmp%2Fmongodb-27017.sock/",
        ] {
            assert_eq!(fault(uri), None, "{uri}");
        }
    }

    #[test]
    fn a_fault_is_named_and_nothing_of_the_password() {
        let cases = [
            ("postgres://u:hunter2@h", "begin with mongodb://"),
            ("h:27017", "begin with mongodb://"),
            (" mongodb://h/", "spaces or line breaks"),
            ("mongodb://h/?replicaSet=rs0 ", "spaces or line breaks"),
            ("mongodb://", "names no host"),
            ("mongodb:///im", "names no host"),
            ("mongodb://u:hunter2@", "names no host"),
            ("mongodb://u:hunter2@/im", "names no host"),
            ("mongodb://a,,b/", "host 2"),
            ("mongodb://a,b:hunter2/", "after host 2"),
            ("mongodb://h:0/", "after host 1"),
            ("mongodb://::1/", "empty name for host 1"),
            ("mongodb://fe80::1/", "[::1]:27017"),
            ("mongodb://[::1/", "after host 1"),
            ("mongodb://[::1]x/", "after host 1"),
            ("mongodb+srv://u:hunter2@h.example.org:27017/", "has a port"),
            (
                "mongodb+srv://a.example.org,b.example.org/",
                "has several hosts",
            ),
            ("mongodb://u:hunter@2@h/", "in its password; write %3A"),
            ("mongodb://u:hunter/2@h/", "in its password"),
            ("mongodb://u:hunter?2@h/", "%3F"),
            ("mongodb://u:p@hunter?hunter=1@h/", "%3F"),
            ("mongodb://u:p@ss?hunter&x@h/", "%3F"),
            ("mongodb+srv://u@cluster.example.org/", "without a password"),
            (
                "mongodb+srv://cluster.example.org/?tlsCAFile=/nowhere/hunter2",
                "`tlsCAFile` that cannot be read: No such",
            ),
            ("mongodb://u:hunter%2@h/", "`%` in its password"),
            ("mongodb://u:hunter%ü2@h/", "`%` in its password"),
            ("mongodb://u%z:hunter2@h/", "`%` in its user"),
            ("mongodb://:hunter2@h/", "without a user"),
            ("mongodb://@h/", "without a user"),
            ("mongodb://u@h/", "without a password"),
            ("mongodb://u:@h/", "without a password"),
            (
                "mongodb://h/?replicaSett=hunter2",
                "`replicaSett`; did you mean `replicaSet`?",
            ),
            ("mongodb://h/?nonsense=hunter2", "unknown option `nonsense`"),
            (
                "mongodb://h/?replicaSet",
                "no value for its option `replicaSet`",
            ),
            (
                "mongodb://h/?replicaset=a&replicaSet=b",
                "`replicaSet` twice",
            ),
            ("mongodb://h/?a%20b=c", "not of letters"),
            ("mongodb://h/?w=1&", "not of letters"),
            ("mongodb://h/?replicaSet=a&tls=hunter2", "form is tls=true"),
            ("mongodb://h/?maxpoolsize=hunter2", "form is maxPoolSize=64"),
            (
                "mongodb://h/?heartbeatFrequencyMS=1",
                "`heartbeatFrequencyMS`",
            ),
            (
                "mongodb://h/?readPreferenceTags=a:b&w=1",
                "`readPreferenceTags`",
            ),
            ("mongodb://a,b/?directConnection=true", "`directConnection`"),
            (
                "mongodb://h/?tls=false&tlsInsecure=true",
                "contradicts the rest",
            ),
            (
                "mongodb://h/?tlsCAFile=/nowhere/hunter2",
                "`tlsCAFile` that cannot be read: No such",
            ),
            ("mongodb://h/a$b", "is no MongoDB connection string"),
        ];
        for (uri, expected) in cases {
            let fault = fault(uri).unwrap_or_default();
            assert!(fault.contains(expected), "{uri}: {fault}");
            assert!(!fault.contains("hunter"), "{uri}: {fault}");
            assert!(!fault.contains("os error"), "{uri}: {fault}");
        }
    }
}
