//! `im-callback token`: what it prints, and what it says instead.

use im_callback::config::Config;

use crate::log_guard;
use crate::support::{Bench, text};

/// The key of RFC 8037, A.1, and another one.
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
const OTHER_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n-----END PRIVATE KEY-----\n";

const APPS: &str = r#"
[[apps]]
name = "otc"
provider = "netease"
app_key = "k"
app_secrets = ["a-secret-of-otc"]
[[apps]]
name = "shop"
provider = "netease"
app_key = "k"
app_secrets = ["a-secret-of-shop"]
"#;
const SITE: &str = r#"
[[auth.token_keys]]
name = "site"
algorithm = "HS256"
secret = "the-cli-tests-secret-of-the-site"
"#;
const HS256: &str = r#"
[[auth.token_keys]]
name = "site"
algorithm = "HS256"
secret = "the-cli-tests-secret-of-the-site"
[[auth.token_keys]]
name = "of-otc"
algorithm = "HS256"
secret = "the-cli-tests-other-secret-of-otc"
apps = ["otc"]
"#;
const EDDSA: &str = r#"
[[auth.token_keys]]
name = "ed"
algorithm = "EdDSA"
public_key = { file = "public.pem" }
"#;

fn bench(keys: &str) -> Bench {
    let bench = Bench::new();
    bench.write("im.toml", &format!("{APPS}{keys}"));
    bench.write("public.pem", PUBLIC);
    bench.write("private.pem", PRIVATE);
    bench.write("other.pem", OTHER_PRIVATE);
    bench
}

/// Runs it, and checks what it printed as the service would. Gives app, user, key and how long it is valid.
fn made(bench: &Bench, arguments: &[&str]) -> (String, String, String, u64) {
    let output = bench.run(&[&["token", "--config", "im.toml"], arguments].concat());
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let printed = text(&output.stdout);
    let token = printed.strip_suffix('\n').expect("a line");
    log_guard::forbid_secret(token);
    let file = bench.folder.path().join("public.pem");
    let path = file.display().to_string();
    let config = std::fs::read_to_string(bench.folder.path().join("im.toml")).unwrap();
    let config = bench.write("checked.toml", &config.replace("public.pem", &path));
    let config = Config::load(Some(&config), &[]).unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let user = config.tokens.verify(token, now).unwrap();
    assert!(!user.has_team("none"));
    for team in ["t1", "t2", "t3"] {
        assert_eq!(user.has_team(team), arguments.contains(&"--team"), "{team}");
    }
    let ends = user.expires_at().duration_since(std::time::UNIX_EPOCH);
    let (app, key) = (user.app().to_string(), user.key().name().to_owned());
    (
        app,
        user.user().to_owned(),
        key,
        ends.unwrap().as_secs() - now,
    )
}

#[test]
fn a_token_is_printed_alone_and_is_valid() {
    let bench = bench(&format!("{EDDSA}{HS256}"));
    let is = |made: (String, String, String, u64), app, user, key, seconds: u64| {
        assert_eq!((&*made.0, &*made.1, &*made.2), (app, user, key));
        assert!(
            (seconds - 5..=seconds).contains(&made.3),
            "{} of {seconds}",
            made.3
        );
    };
    is(
        made(&bench, &["--user", "Bob", "--app", "shop"]),
        "shop",
        "Bob",
        "site",
        600,
    );
    let all = [
        "-u", "b", "--app", "otc", "--for", "1h", "--team", "t1,t2", "--team", "t3",
    ];
    is(made(&bench, &all), "otc", "b", "site", 3600);
    // The key is for one app, so it need not be named.
    is(
        made(&bench, &["-u", "b", "--key", "of-otc", "--for", "90s"]),
        "otc",
        "b",
        "of-otc",
        90,
    );
    // So is the only key that can do without: the first one cannot.
    is(
        made(&bench, &["-u", "b", "--for", "90s"]),
        "otc",
        "b",
        "of-otc",
        90,
    );
    let private = ["-u", "b", "--app", "otc", "--private-key", "private.pem"];
    is(made(&bench, &private), "otc", "b", "ed", 600);
}

#[test]
fn what_cannot_be_signed_is_told_with_the_way_out() {
    let user = ["--user", "bob", "--app", "otc"];
    let cases: &[(&str, &[&str], i32, &[&str])] = &[
        (
            "",
            &user,
            2,
            &["no token key is configured", "[[auth.token_keys]]"],
        ),
        (
            SITE,
            &["--user", "bob"],
            2,
            &["every token key is for several apps", "--app"],
        ),
        (
            SITE,
            &["--user", "bob", "--key", "site"],
            2,
            &["the token key `site` is for several apps", "--app"],
        ),
        // The one that would do has no private half here.
        (
            &format!("{EDDSA}apps = [\"otc\"]\n{SITE}"),
            &["--user", "bob"],
            2,
            &["`ed` is one of EdDSA", "--private-key"],
        ),
        (HS256, &["--user", ""], 2, &["is empty"]),
        (
            HS256,
            &["--user", "b", "--app", "none"],
            2,
            &["no app named `none`", "`otc`, `shop`"],
        ),
        (
            HS256,
            &["--user", "b", "--app", "shop", "--key", "of-otc"],
            2,
            &["`of-otc` is not for the app `shop`"],
        ),
        (
            HS256,
            &["--user", "b", "--app", "shop", "--key", "x"],
            2,
            &["no token key is named `x`"],
        ),
        (
            HS256,
            &["--user", "b", "--for", "61m"],
            2,
            &["auth.max_token_age", "1h"],
        ),
        (HS256, &["--user", "b", "--for", "0s"], 2, &["such as 10m"]),
        (
            HS256,
            &["--user", "b", "--for", "long"],
            2,
            &["such as 10m"],
        ),
        (
            HS256,
            &[
                "--user",
                "b",
                "--app",
                "otc",
                "--private-key",
                "private.pem",
            ],
            2,
            &["leave out --private-key"],
        ),
        (
            EDDSA,
            &user,
            2,
            &[
                "`ed` is one of EdDSA",
                "--private-key",
                "let the site make the token",
            ],
        ),
        (
            EDDSA,
            &["--user", "b", "--app", "otc", "--key", "ed"],
            2,
            &["--private-key"],
        ),
        (
            EDDSA,
            &["--user", "b", "--app", "otc", "--private-key", "public.pem"],
            1,
            &["public.pem has no private key"],
        ),
        (
            EDDSA,
            &["--user", "b", "--app", "otc", "--private-key", "none.pem"],
            1,
            &["cannot read none.pem"],
        ),
        (
            EDDSA,
            &["--user", "b", "--app", "otc", "--private-key", "other.pem"],
            1,
            &["would refuse the token", "is the private key that of `ed`?"],
        ),
    ];
    for (keys, arguments, code, says) in cases {
        let bench = bench(keys);
        let output = bench.run(&[&["token", "--config", "im.toml"], *arguments].concat());
        assert_eq!(
            output.status.code(),
            Some(*code),
            "{arguments:?} {output:?}"
        );
        assert_eq!(text(&output.stdout), "");
        let error = text(&output.stderr);
        for part in *says {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        assert!(!error.contains("MC4CAQ"), "{error}");
    }
}

/// It has nothing to do with the key.
#[test]
fn a_token_that_is_too_long_is_told_without_a_wrong_hint() {
    let bench = bench(HS256);
    let teams = vec!["a-team-of-the-site"; 1000].join(",");
    let arguments = ["--user", "b", "--app", "otc", "--team", &teams];
    let output = bench.run(&[&["token", "--config", "im.toml"], &arguments[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = text(&output.stderr);
    assert!(
        error.contains("the token is longer than 8192 bytes"),
        "{error}"
    );
    assert!(!error.contains("private key"), "{error}");
}

#[test]
fn token_keys_and_origins_are_summed_up_without_secrets() {
    let bench = bench(&format!("{HS256}{EDDSA}"));
    let config = bench.folder.path().join("im.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        format!("http.cors_origins = [\"https://shop.example\"]\n{text}"),
    )
    .unwrap();
    let told = crate::succeeded(&bench.run(&["check-config", "--config", "im.toml"]));
    for line in [
        "token key site: HS256, all apps\n",
        "token key of-otc: HS256, apps otc\n",
        "token key ed: EdDSA, all apps\n",
        "pages may ask from: https://shop.example\n",
    ] {
        assert!(told.contains(line), "{told}");
    }
    assert!(
        !told.contains("no key") && !told.contains("the-cli-tests"),
        "{told}"
    );
}
