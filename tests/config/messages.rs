//! Errors say what to write instead: an example, the nearest key, a position, an option of the connection string.

use im_callback::config::Config;

use super::{APP, jailed, load};

/// The error of a configuration: one line, without a secret.
#[track_caller]
fn error_of(toml: &str) -> String {
    let mut told = String::new();
    jailed(|jail| {
        let error = load(jail, toml).expect_err(toml);
        assert!(!error.contains("hunter2"), "{error}");
        assert!(!error.contains("os error"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        told = error;
    });
    told
}

#[test]
fn a_wrong_value_comes_with_an_example_for_its_key() {
    let app = |more: &str| format!("{APP}{more}");
    let top = |line: &str| format!("{line}\n{APP}");
    let time = "expected a length of time above zero, such as";
    let cases = [
        (
            top("http.max_body = \"much\""),
            "`http.max_body` has a wrong value; expected a size, such as \"1MiB\"",
        ),
        (
            top("http.max_body = -1"),
            "has a wrong value; expected a size, such as \"1MiB\"",
        ),
        (
            top("spool.max_bytes = true"),
            "is a boolean; expected a size, such as \"1GiB\"",
        ),
        (
            top("http.header_timeout = 5"),
            &format!("is a number; {time} \"5s\""),
        ),
        (
            top("http.header_timeout = \"5\""),
            &format!("has a wrong value; {time} \"5s\""),
        ),
        (
            top("http.header_timeout = \"0s\""),
            &format!("has a wrong value; {time} \"5s\""),
        ),
        (
            top("retention.messages = \"two years\""),
            &format!("has a wrong value; {time} \"730d\""),
        ),
        (
            app("freshness = \"soon\"\n"),
            &format!("`apps.0.freshness` has a wrong value; {time} \"5m\""),
        ),
        (
            top("http.max_ids = \"many\""),
            "is a text; expected a whole number above zero, such as 1000",
        ),
        (
            top("http.max_ids = -1"),
            "has a wrong value; expected a whole number above zero, such as 1000",
        ),
        (
            top("http.trusted_proxies = \"10.0.0.0/8\""),
            "is a text; expected a list, such as [\"10.0.0.0/8\"]",
        ),
        (
            top("http = 5"),
            "`http` is a number; expected a section (in",
        ),
        (
            app("order_id = \"/orderId\"\n"),
            "expected a section, such as { field = \"ext\", pointer = \"/orderId\" }",
        ),
        (
            app("count_tips = \"yes\"\n"),
            "`apps.0.count_tips` is a text; expected true or false (in",
        ),
        (
            top("log.format = 5"),
            "is a number; expected a text, such as \"text\"",
        ),
        (
            APP.replace("[[apps]]", "[apps]"),
            "`apps` is a section; expected a list, such as [[apps]] sections",
        ),
        (
            APP.replace("[\"hunter2\"]", "[2]"),
            "is no secret; write a text, { file = \"…\" } or { env = \"…\" }",
        ),
        (
            top("http.max_body = \"99MiB\"\nhttp.bytes_reading = \"99MiB\""),
            "`http.max_body` must be between 1 and 8MiB",
        ),
    ];
    for (toml, expected) in cases {
        let error = error_of(&toml);
        assert!(error.contains(expected), "{expected} is not in: {error}");
    }
}

#[test]
fn an_unknown_key_comes_with_the_nearest() {
    let cases = [
        (
            "http.lisen = \"hunter2\"",
            "`http.lisen` is no known key; did you mean `listen`? (in im.toml)",
        ),
        (
            "http.maxBody = 1",
            "`http.maxBody` is no known key; did you mean `max_body`? (in",
        ),
        (
            "[htttp]\nlisten = 1",
            "`htttp` is no known section; did you mean `http`? (in",
        ),
        (
            "[[app]]\nname = 1",
            "`app` is no known section; did you mean `apps`? (in",
        ),
        (
            "listen = \"hunter2\"",
            "`listen` is no known key; did you mean `http.listen`? (in",
        ),
        (
            "http.commit_timeout = \"1s\"",
            "`http.commit_timeout` is no known key; did you mean `mongodb.commit_timeout`? (in",
        ),
        (
            "[[apps]]\nkeep_alive = 1",
            "`apps.0.keep_alive` is no known key; did you mean `http.keep_alive`? (in",
        ),
        (
            "[nonsense]",
            "`nonsense` is no known section; known are `http`, `mongodb`, ",
        ),
        (
            "spool.nonsense = 1",
            "`spool.nonsense` is no known key; known are `path`, `max_bytes` (in",
        ),
    ];
    for (toml, expected) in cases {
        let error = error_of(toml);
        assert!(error.contains(expected), "{expected} is not in: {error}");
    }
    for (variable, expected) in [
        ("IM_CALLBACK__HTTP_LISTEN", "IM_CALLBACK__HTTP__LISTEN"),
        ("IM_CALLBACK__HTTP__LISEN", "IM_CALLBACK__HTTP__LISTEN"),
        ("IM_CALLBACK__MONGO__URI", "IM_CALLBACK__MONGODB"),
    ] {
        jailed(|jail| {
            jail.set_env(variable, "hunter2");
            let error = load(jail, APP).expect_err(variable);
            let expected = format!("did you mean {expected}");
            assert!(error.contains(&expected), "{expected} is not in: {error}");
            assert!(error.contains(&format!("(in {variable}")), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        });
    }
}

/// The position and the mistake, in a user's words, and nothing of the line, which may hold a secret.
#[test]
fn broken_toml_is_told_with_its_position() {
    let cases = [
        (
            "a = \"hunter2",
            "line 1, column 13: a text has no closing quote",
        ),
        (
            "a = \"hunter2\nb = 1\n",
            "line 1, column 13: a text has no closing quote",
        ),
        (
            "a = 'hunter2\r\nb = 1\n",
            "line 1, column 13: a text has no closing quote",
        ),
        (
            "a = '''hunter2\nb\n",
            "line 3, column 1: a text of several lines has no closing quotes",
        ),
        (
            "a = \"hunter2\\q\"",
            "line 1, column 15: invalid escape sequence",
        ),
        (
            "\n  a = hunter2",
            "line 2, column 7: a text needs quotes around it",
        ),
        (
            "a = [ \"hunter2\" \"x\" ]",
            "line 1, column 17: a list lacks a comma, or its closing `]`",
        ),
        (
            "a = [ \"hunter2\",\nb = 2\n",
            "line 2, column 1: a list lacks a comma, or its closing `]`",
        ),
        (
            "a = { b = \"hunter2\"\nc = 3 }",
            "line 1, column 20: a comma or the closing `}` is missing",
        ),
        ("hunter2", "line 1, column 8: a key has no `=` after it"),
        ("= \"hunter2\"", "line 1, column 1: invalid key"),
        (
            "[http\nlisten = 1",
            "line 1, column 6: invalid table header",
        ),
        (
            "[[apps]\nname = 1",
            "line 1, column 7: invalid table header",
        ),
        (
            "[http]\nlisten = 1\nlisten = \"hunter2\"",
            "line 3, column 1: duplicate key `listen`",
        ),
        (
            "[http]\n[http]\n",
            "line 2, column 1: invalid table header, duplicate key",
        ),
        ("a = 1\na.b = \"hunter2\"", "line 2, column 1: dotted key"),
        (
            "a = 99999999999999999999",
            "line 1, column 5: number too large",
        ),
        ("ä = \"hunter2", "line 1, column 1: invalid key"),
    ];
    for (toml, expected) in cases {
        let error = error_of(toml);
        assert!(error.contains(expected), "{expected} is not in: {error}");
        assert!(error.ends_with("(in im.toml)"), "{error}");
    }
    jailed(|jail| {
        let path = jail.directory().join("im.toml");
        std::fs::write(path, b"a = 1\nb = \"hunter2\xff\"\n").unwrap();
        let error = Config::load(Some("im.toml".as_ref()), &[]).expect_err("not UTF-8");
        assert_eq!(
            error.to_string(),
            "configuration: line 2 is not UTF-8 (in im.toml)"
        );
    });
}

/// `mongodb_uri` has the cases; here it is the error's form.
#[test]
fn a_connection_string_is_told_by_its_fault() {
    let cases = [
        (
            "mongodb://u:hunter2@h/?replicaSet=rs0&retryWrite=true",
            "`mongodb.uri` has the unknown option `retryWrite`; did you mean `retryWrites`? (in im.toml)",
        ),
        (
            "mongodb://u:hunter2%@h/",
            "`mongodb.uri` has a `%` in its password without two hexadecimal digits after it; write %25 for it",
        ),
        (
            "mongodb+srv://u:hunter2@h.example.org:27017/",
            "`mongodb.uri` has a port, but mongodb+srv takes one name alone",
        ),
        ("mongodb://u:hunter2@/", "`mongodb.uri` names no host"),
        (
            "mongodb://u@h/",
            "`mongodb.uri` names a user without a password",
        ),
    ];
    for (uri, expected) in cases {
        let error = error_of(&format!("mongodb.uri = \"{uri}\"\n{APP}"));
        assert!(error.contains(expected), "{expected} is not in: {error}");
    }
}

#[test]
fn what_is_missing_is_told_once() {
    jailed(|jail| {
        let error = Config::load(None, &[]).expect_err("no app").to_string();
        assert!(
            error.ends_with("(in no file: give one with --config)"),
            "{error}"
        );
        let error = load(jail, "").expect_err("no app");
        assert!(error.ends_with("(in im.toml)"), "{error}");
        let error = Config::load(Some("none.toml".as_ref()), &[]).expect_err("no file");
        assert_eq!(
            error.to_string(),
            "configuration: the file cannot be read: No such file or directory (in none.toml)"
        );
    });
    let secret = |from: &str| error_of(&APP.replace("\"hunter2\"", from));
    let error = secret("{ file = \"none\" }");
    let expected =
        "`apps.0.app_secrets.0` cannot be read from none: No such file or directory (in im.toml)";
    assert!(error.contains(expected), "{error}");
    let error = secret("{ env = \"NONE\" }");
    assert!(
        error.contains("is to come from the variable NONE, which is not set"),
        "{error}"
    );
}

/// The address is found whatever the rest is like, for a health check.
#[test]
fn the_address_needs_nothing_else() {
    jailed(|jail| {
        assert_eq!(Config::listen(None).unwrap().port(), 8080);
        jail.create_file(
            "im.toml",
            "http.listen = \"127.0.0.1:1\"\nhttp.nonsense = 1\n",
        )
        .unwrap();
        let file = Some("im.toml".as_ref());
        assert_eq!(Config::listen(file).unwrap().port(), 1);
        jail.set_env("IM_CALLBACK__HTTP__LISTEN", "127.0.0.1:2");
        assert_eq!(Config::listen(file).unwrap().port(), 2);
        jail.set_env("IM_CALLBACK__HTTP__LISTEN", "nowhere");
        let error = Config::listen(file).expect_err("no address").to_string();
        assert!(
            error.starts_with("configuration: `http.listen` is no socket address"),
            "{error}"
        );
        assert!(error.ends_with("(in IM_CALLBACK__HTTP__LISTEN)"), "{error}");
    });
}
