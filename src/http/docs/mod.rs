//! `/docs`: the API for people, as Swagger UI shows `/openapi.json`. All its files are in the program, so it works
//! without the internet.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use utoipa_swagger_ui::{Config, serve};

use super::error::{Code, Problem};
use super::fixed::Fixed;

/// What the page may load: its own files. Swagger UI draws its icons from `data:`, and asks this service alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

static PAGE: LazyLock<Fixed> = LazyLock::new(|| {
    let page = include_bytes!("page.html").as_slice();
    Fixed::new("text/html; charset=utf-8", page).with_policy(POLICY)
});

/// The files that the page loads, by name.
static FILES: LazyLock<HashMap<&str, Fixed>> = LazyLock::new(|| {
    let vendored = [
        ("swagger-ui.css", "text/css; charset=utf-8"),
        ("swagger-ui-bundle.js", SCRIPT),
        ("favicon-32x32.png", "image/png"),
    ];
    let vendored = vendored.map(|(name, content_type)| {
        let fixed = Fixed::new(content_type, vendored_file(name));
        (name, fixed)
    });
    let start = include_bytes!("start.js").as_slice();
    let start = ("start.js", Fixed::new(SCRIPT, start));
    vendored.into_iter().chain([start]).collect()
});

fn vendored_file(name: &str) -> Bytes {
    let unused = Arc::new(Config::from("openapi.json"));
    let found = serve(name, unused).ok().flatten();
    let file = found.unwrap_or_else(|| panic!("Swagger UI has no file {name}"));
    Bytes::from(file.bytes.into_owned())
}

/// This API as a page
///
/// The page and its files come from the service itself; it needs no internet.
#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "show_docs",
    tag = "documentation",
    security(()),
    responses(
        (status = 200, description = "The page", body = String, content_type = "text/html"),
        (status = 304, description = "The client has it already (`If-None-Match`)"),
        (status = 308, description = "From `/docs/` to `/docs`"),
    )
)]
pub async fn page(request: HttpRequest) -> HttpResponse {
    if request.path().ends_with('/') {
        // The page names its files as seen from `/docs`, wherever a proxy puts that.
        return HttpResponse::PermanentRedirect()
            .insert_header((LOCATION, "../docs"))
            .finish();
    }
    PAGE.answer(&request)
}

/// A file of the page
#[utoipa::path(
    get,
    path = "/docs/{file}",
    operation_id = "get_docs_file",
    tag = "documentation",
    security(()),
    params(("file" = String, Path, description = "Its name", example = "start.js")),
    responses(
        (status = 200, description = "The file", content(
            (String = "text/css"),
            (String = "text/javascript"),
            (Vec<u8> = "image/png"),
        )),
        (status = 304, description = "The client has it already (`If-None-Match`)"),
    )
)]
pub async fn file(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let name = request.match_info().get("file").unwrap_or_default();
    let found = FILES.get(name).map(|file| file.answer(&request));
    found.ok_or_else(|| Problem::new(Code::NotFound, "the documentation has no file of this name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A browser with this page asks nobody else: the policy forbids it, and nothing of ours asks for it.
    #[test]
    fn the_page_names_files_of_the_service_alone() {
        let page = include_str!("page.html");
        let mut names = Vec::new();
        for attribute in ["href=\"", "src=\""] {
            names.extend(
                page.split(attribute)
                    .skip(1)
                    .filter_map(|rest| rest.split('"').next()),
            );
        }
        assert_eq!(names.len(), 5, "{names:?}");
        for name in names {
            let is_there = match name.strip_prefix("docs/") {
                Some(file) => FILES.contains_key(file),
                None => name == "openapi.json",
            };
            assert!(is_there, "{name}");
        }
        for text in [page, include_str!("start.js"), POLICY] {
            assert!(!names_a_host(text), "{text}");
        }
    }

    /// Whether a text has an address of another service, with or without a scheme.
    fn names_a_host(text: &str) -> bool {
        let starts = ["http:", "https:", "\"//", "'//", "`//", "=//", "(//"];
        starts.iter().any(|start| text.contains(start))
    }

    #[test]
    fn addresses_of_hosts_are_found() {
        for text in [
            r#"<script src="//cdn.example/x.js">"#,
            "<script src='//cdn.example/x.js'>",
            "<script src=//cdn.example/x.js>",
            "fetch(`//cdn.example/x`)",
            "url(//cdn.example/x.css)",
            "img-src https:",
            r#"url: "http:cdn.example""#,
        ] {
            assert!(names_a_host(text), "{text}");
        }
        assert!(!names_a_host("// A comment\nurl: \"docs/x.js\""));
    }
}
