//! A headless Chromium, driven over its DevTools protocol.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::apt;
use super::ws::Socket;

const CHROMIUM: &str = "/usr/bin/chromium";
const FLAGS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    // No name is looked up: the pages are all at an address.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
    "about:blank",
];

/// One page in a browser of its own; killed when dropped.
pub struct Page {
    browser: Child,
    devtools: Socket,
    session: String,
    next_id: u64,
    _profile: tempfile::TempDir,
}

impl Page {
    /// Loads a page to its end.
    pub async fn open(url: &str) -> Self {
        tokio::task::spawn_blocking(|| apt::install("chromium", CHROMIUM))
            .await
            .unwrap();
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Command::new(CHROMIUM)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stderr(Stdio::piped())
            .spawn()
            .expect("Chromium starts");
        let mut lines = BufReader::new(browser.stderr.take().expect("piped")).lines();
        let address = loop {
            let line = lines.next().expect("an address before the end").unwrap();
            if let Some((_, address)) = line.split_once("DevTools listening on ") {
                break address.to_owned();
            }
        };
        // Keep reading, or it would block on a full pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let (devtools, _) = tokio_tungstenite::connect_async(address).await.unwrap();
        let mut page = Self {
            browser,
            devtools,
            session: String::new(),
            next_id: 1,
            _profile: profile,
        };
        let target = page.ask("Target.createTarget", json!({ "url": "about:blank" }));
        let target = target.await["targetId"].clone();
        let attach = json!({ "targetId": target, "flatten": true });
        let attached = page.ask("Target.attachToTarget", attach).await;
        page.session = attached["sessionId"].as_str().unwrap().to_owned();
        page.ask("Page.enable", json!({})).await;
        page.ask("Page.navigate", json!({ "url": url })).await;
        while page.hear().await["method"] != "Page.loadEventFired" {}
        page
    }

    async fn hear(&mut self) -> Value {
        let heard = async {
            loop {
                if let Message::Text(text) = self.devtools.next().await.unwrap().unwrap() {
                    return serde_json::from_str(&text).unwrap();
                }
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(60), heard).await;
        heard.expect("an answer of Chromium within 60 s")
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            request["sessionId"] = self.session.clone().into();
        }
        let request = Message::text(request.to_string());
        self.devtools.send(request).await.unwrap();
        loop {
            let mut answer = self.hear().await;
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }

    /// The value of an expression.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({
            "expression": expression, "awaitPromise": true, "returnByValue": true,
        });
        let mut answer = self.ask("Runtime.evaluate", params).await;
        assert!(answer["exceptionDetails"].is_null(), "{answer}");
        answer["result"]["value"].take()
    }

    /// The first value of an expression that counts as true, whenever the
    /// document comes to have it.
    pub async fn when(&mut self, expression: &str) -> Value {
        let promise = format!(
            "new Promise((resolve) => {{
               const look = () => {{
                 const found = ({expression});
                 if (found) {{ observer.disconnect(); resolve(found); }}
               }};
               const observer = new MutationObserver(look);
               observer.observe(document, {{ subtree: true, childList: true, characterData: true }});
               look();
             }})"
        );
        self.eval(&promise).await
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}
