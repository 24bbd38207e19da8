//! A real Chromium, driven as a person would: by clicks, by keys, and by looking.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use thirtyfour::common::command::FormatRequestData;
use thirtyfour::extensions::cdp::ChromeDevTools;
use thirtyfour::prelude::*;
use thirtyfour::{RequestData, SessionId};

use crate::stack::{Stack, repository, unique};
use crate::wait::wait_until;

const PATIENCE: Duration = Duration::from_secs(30);
/// As many as no page of ours has stops for the focus.
const TABS: usize = 40;

/// chromedriver's own command for what the browser's console says.
#[derive(Debug)]
struct ConsoleLog;

impl FormatRequestData for ConsoleLog {
    fn format_request(&self, session: &SessionId) -> RequestData {
        let post = "POST".parse().expect("a method");
        RequestData::new(post, format!("session/{session}/se/log"))
            .add_body(json!({"type": "browser"}))
    }
}

/// Where scripts/setup.sh has put axe-core.
fn axe() -> PathBuf {
    let cache = std::env::var("SLUICE_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|_| {
        let cache = std::env::var("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || PathBuf::from(std::env::var("HOME").expect("a home")).join(".cache");
        cache.unwrap_or_else(|_| home()).join("sluice")
    });
    let package = repository().join("scripts/axe/package.json");
    let package = std::fs::read_to_string(package).expect("a file of ours");
    let package: Value = package.parse().expect("JSON");
    let version = package["dependencies"]["axe-core"]
        .as_str()
        .expect("a version");
    cache.join(format!("axe-core-{version}/axe.min.js"))
}

/// chromedriver, which ends its browser when it ends.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Browser {
    pub driver: WebDriver,
    tools: ChromeDevTools,
    _process: Driver,
}

impl Browser {
    /// Panics without Chromium: a page that nobody has looked at is not tested.
    pub async fn start(stack: &Stack) -> Self {
        let name = unique("browser");
        let log = stack.logs().join(format!("{name}.log"));
        let file = File::create(&log).expect("the stack's folder is writable");
        let process = Command::new("chromedriver")
            .arg("--port=0")
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stderr(file.try_clone().expect("a second handle"))
            .stdout(file)
            .spawn()
            .expect("chromedriver is not installed: run make setup");
        let process = Driver(process);
        const PORT: &str = "started successfully on port ";
        let mut port = String::new();
        wait_until("chromedriver to start", PATIENCE, async || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let rest = text.split_once(PORT).map(|(_, rest)| rest);
            // The whole line, so the whole number.
            let number = rest.and_then(|rest| rest.split_once('\n'));
            port = number.map_or_else(String::new, |(line, _)| {
                line.trim_end_matches('.').trim().to_owned()
            });
            !port.is_empty()
        })
        .await;
        let profile = stack.dir.join(&name).display().to_string();
        let mut wanted = DesiredCapabilities::chrome();
        for argument in [
            "--headless=new",
            // Chromium's sandbox does not work for root; the page is ours.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--no-proxy-server",
            "--lang=en-US",
            "--force-color-profile=srgb",
            &format!("--user-data-dir={profile}"),
        ] {
            wanted.add_arg(argument).expect("an argument");
        }
        let levels = json!({"browser": "ALL"});
        wanted.insert_base_capability("goog:loggingPrefs".to_owned(), levels);
        let driver = WebDriver::new(format!("http://127.0.0.1:{port}"), wanted).await;
        let driver = driver.expect("Chromium starts: see the log of chromedriver");
        let tools = ChromeDevTools::new(driver.handle.clone());
        Self {
            driver,
            tools,
            _process: process,
        }
    }

    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let answer = self.tools.execute_cdp_with_params(command, parameters);
        answer
            .await
            .unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// A screen of that size, light or dark, touched or not.
    pub async fn screen(&self, (width, height): (u32, u32), theme: &str, mobile: bool) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": theme}]});
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    pub async fn open(&self, url: &str) {
        self.driver.goto(url).await.expect("the page");
    }

    /// What a function body answers, whose first argument is given.
    pub async fn script(&self, body: &str, argument: &str) -> Value {
        let answer = self.driver.execute(body, vec![json!(argument)]).await;
        let answer = answer.unwrap_or_else(|error| panic!("{body}: {error}"));
        answer.json().clone()
    }

    /// What a person reads there; nothing where there is nothing.
    pub async fn text(&self, css: &str) -> String {
        let body = "return document.querySelector(arguments[0])?.innerText ?? ''";
        let text = self.script(body, css).await;
        text.as_str().expect("text").trim().to_owned()
    }

    pub async fn is_shown(&self, css: &str) -> bool {
        let body = "return document.querySelector(arguments[0])?.checkVisibility() ?? false";
        self.script(body, css).await == true
    }

    pub async fn shows(&self, css: &str) {
        wait_until(&format!("{css} to be shown"), PATIENCE, async || {
            self.is_shown(css).await
        })
        .await;
    }

    pub async fn hides(&self, css: &str) {
        wait_until(&format!("{css} to be gone"), PATIENCE, async || {
            !self.is_shown(css).await
        })
        .await;
    }

    /// Waits until a text has a part, and says how long that took.
    pub async fn reads(&self, css: &str, part: &str) -> Duration {
        let what = format!("{css} to say {part:?}");
        wait_until(&what, PATIENCE, async || {
            self.text(css).await.contains(part)
        })
        .await
    }

    pub async fn click(&self, css: &str) {
        self.shows(css).await;
        let element = self.driver.find(By::Css(css)).await;
        let element = element.unwrap_or_else(|error| panic!("{css}: {error}"));
        let clicked = element.click().await;
        clicked.unwrap_or_else(|error| panic!("{css}: {error}"));
    }

    /// Clears a field and types into it.
    pub async fn fill(&self, css: &str, text: &str) {
        self.shows(css).await;
        let field = self.driver.find(By::Css(css)).await;
        let field = field.unwrap_or_else(|error| panic!("{css}: {error}"));
        field.clear().await.expect("a field");
        field.send_keys(text).await.expect("a field");
    }

    /// Keys to whatever has the focus.
    pub async fn press(&self, keys: impl Into<TypingData>) {
        let chain = self.driver.action_chain().send_keys(keys);
        chain.perform().await.expect("keys");
    }

    pub async fn select_all(&self) {
        let chain = self.driver.action_chain().key_down(Key::Control);
        let chain = chain.send_keys("a").key_up(Key::Control);
        chain.perform().await.expect("keys");
    }

    pub async fn has_focus(&self, css: &str) -> bool {
        let body = "return document.activeElement?.matches(arguments[0]) ?? false";
        self.script(body, css).await == true
    }

    /// Waits until the focus is there: what has to be asked for first takes a moment.
    pub async fn gets_focus(&self, css: &str) {
        wait_until(&format!("{css} to have the focus"), PATIENCE, async || {
            self.has_focus(css).await
        })
        .await;
    }

    /// By the Tab key alone, and only to where the focus can be seen.
    pub async fn tab_to(&self, css: &str) {
        for _ in 0..TABS {
            if self.has_focus(css).await {
                let seen = "return document.activeElement.matches(':focus-visible')
                    && getComputedStyle(document.activeElement).outlineStyle !== 'none'";
                assert_eq!(
                    self.script(seen, css).await,
                    true,
                    "{css}: the focus is not seen"
                );
                return;
            }
            self.press(Key::Tab).await;
        }
        panic!("{css} is not reached by Tab");
    }

    /// What axe-core finds, a line for each rule that is broken. Its script is read as a file of this machine: it is
    /// run by the driver, past the page's policy, which lets no script in that is not its own.
    pub async fn violations(&self) -> Vec<String> {
        let path = axe();
        let axe = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}: run make setup", path.display()));
        self.script(&format!("{axe}; window.axe = axe;"), "").await;
        let run = "const told = arguments[arguments.length - 1];
            const node = (found) => `${found.target.join(' ')} (${found.failureSummary})`;
            axe.run(document).then(({ violations }) => told(violations.map((rule) => `${rule.id}: ${rule.nodes.map(node).join('; ')}`)))
                .catch((error) => told([`axe failed: ${error}`]));";
        let answer = self.driver.execute_async(run, Vec::new()).await;
        let answer = answer.unwrap_or_else(|error| panic!("axe-core: {error}"));
        serde_json::from_value(answer.json().clone()).expect("lines")
    }

    /// What the console complained of since the last call.
    pub async fn complaints(&self) -> Vec<String> {
        let answer = self.driver.handle.cmd(ConsoleLog).await;
        let answer = answer.expect("the console's log");
        let entries: Vec<Value> = answer.value().expect("entries");
        entries
            .iter()
            .filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG")
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The whole page as a PNG.
    pub async fn picture(&self) -> Vec<u8> {
        self.driver.screenshot_as_png().await.expect("a picture")
    }

    pub async fn quit(self) {
        self.driver.quit().await.expect("the browser ends");
    }
}
