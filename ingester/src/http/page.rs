//! The page: files in the binary, nothing from elsewhere. They hold no data, so that everybody may
//! have them; what they show comes from the API.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::routing::get;

use crate::http::told::Told;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($name:literal) => {
        include_str!(concat!("assets/", $name))
    };
}

const FILES: [(&str, &str, &str); 17] = [
    ("/", "text/html; charset=utf-8", file!("index.html")),
    (
        "/page/style.css",
        "text/css; charset=utf-8",
        file!("style.css"),
    ),
    ("/page/icon.svg", "image/svg+xml", file!("icon.svg")),
    ("/page/main.js", JAVASCRIPT, file!("main.js")),
    ("/page/api.js", JAVASCRIPT, file!("api.js")),
    ("/page/charts.js", JAVASCRIPT, file!("charts.js")),
    ("/page/deeds.js", JAVASCRIPT, file!("deeds.js")),
    ("/page/dom.js", JAVASCRIPT, file!("dom.js")),
    ("/page/events.js", JAVASCRIPT, file!("events.js")),
    ("/page/instances.js", JAVASCRIPT, file!("instances.js")),
    ("/page/jobs.js", JAVASCRIPT, file!("jobs.js")),
    ("/page/letter.js", JAVASCRIPT, file!("letter.js")),
    ("/page/letters.js", JAVASCRIPT, file!("letters.js")),
    ("/page/partitions.js", JAVASCRIPT, file!("partitions.js")),
    ("/page/payload.js", JAVASCRIPT, file!("payload.js")),
    ("/page/route.js", JAVASCRIPT, file!("route.js")),
    ("/page/troubles.js", JAVASCRIPT, file!("troubles.js")),
];

pub fn routes() -> Router<Arc<Told>> {
    let add = |routes: Router<Arc<Told>>, (path, kind, text)| {
        let answer = ([(header::CONTENT_TYPE, kind)], text);
        routes.route(path, get(move || async move { answer }))
    };
    FILES.into_iter().fold(Router::new(), add)
}
