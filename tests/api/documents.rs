//! The documents over HTTP: whole, cached, compressed, and without another server.

use reqwest::Method;

use crate::harness::Api;

#[tokio::test]
async fn the_documents_are_served_to_anyone_and_sent_once() {
    let api = Api::start().await;
    for (path, version) in [("/openapi.json", "3.1.0"), ("/openapi-3.0.json", "3.0.3")] {
        let answer = api.anonymous.get(path).await;
        assert_eq!(answer.expect(200)["openapi"], version);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let tag = answer.header("etag").expect("an ETag").to_owned();
        let again = api.anonymous.ask(Method::GET, path).header("if-none-match", &tag).send().await;
        assert_eq!((again.status, again.text.as_str()), (304, ""));
        let packed = api.anonymous.ask(Method::GET, path).header("accept-encoding", "gzip");
        assert_eq!(packed.open().await.headers()["content-encoding"], "gzip");
    }
}

#[tokio::test]
async fn the_docs_page_asks_no_other_server() {
    let api = Api::start().await;
    let mut texts = String::new();
    for file in ["", "swagger-initializer.js", "index.css", "swagger-ui.css"] {
        let answer = api.anonymous.get(&format!("/docs/{file}")).await;
        assert_eq!(answer.status, 200, "{file}");
        texts.push_str(&answer.text);
    }
    for file in ["swagger-ui-bundle.js", "swagger-ui-standalone-preset.js"] {
        assert_eq!(api.anonymous.get(&format!("/docs/{file}")).await.status, 200, "{file}");
    }
    assert!(texts.contains("/openapi.json"));
    for part in ["src=\"http", "href=\"http", "url(http", "@import"] {
        assert!(!texts.contains(part), "{part}");
    }
    assert!(texts.contains("\"validatorUrl\": \"none\""), "the validator is another server");
}
