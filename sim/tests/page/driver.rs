//! A headless browser, driven over WebDriver: plain HTTP and JSON to `chromedriver`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// A browser with one window. Gone when this is.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one. `None` if there is no `chromedriver` or no Chromium on this machine, with a word on standard error.
    pub(crate) fn start() -> Option<Self> {
        let driver =
            Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut driver) = driver else {
            eprintln!(
                "SKIPPED: no chromedriver on this machine (Debian: apt-get install chromium chromium-driver)"
            );
            return None;
        };
        let stdout = driver.stdout.take().expect("its output");
        let started = "was started successfully on port ";
        let port = BufReader::new(stdout).lines().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once(started)?;
            port.trim_end_matches('.').parse().ok()
        });
        let port = port.expect("chromedriver says its port");
        let profile = tempfile::tempdir().expect("a directory for the browser's profile");
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--window-size=1600,1000".to_owned(),
            "--force-device-scale-factor=1".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let mut browser = Self { driver, port, session: String::new(), _profile: profile };
        let answer = browser.ask(
            "POST",
            "/session",
            &json!({"capabilities": {"alwaysMatch": {
                "browserName": "chrome",
                "goog:chromeOptions": {"args": arguments},
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
                "timeouts": {"script": 120_000, "pageLoad": 120_000},
            }}}),
        );
        let Some(session) = answer["sessionId"].as_str() else {
            let why = answer["message"].as_str().unwrap_or_default();
            assert!(why.contains("cannot find Chrome binary"), "no session: {answer}");
            eprintln!("SKIPPED: chromedriver finds no Chromium on this machine");
            return None;
        };
        browser.session = session.to_owned();
        Some(browser)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("chromedriver listens");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).expect("a request");
        let mut answer = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            answer.read_line(&mut line).expect("a header");
            if let Some((name, value)) = line.trim().split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().expect("a length");
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body).expect("an answer");
        serde_json::from_slice::<Value>(&body).expect("an answer in JSON")["value"].take()
    }

    fn of_session(&self, path: &str, body: &Value) -> Value {
        let answer = self.ask("POST", &format!("/session/{}{path}", self.session), body);
        assert!(answer.get("error").is_none(), "{path}: {answer}");
        answer
    }

    /// Opens a file.
    pub(crate) fn open(&self, page: &Path) {
        self.of_session("/url", &json!({"url": format!("file://{}", page.display())}));
    }

    /// Runs a script; what it returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.of_session("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Runs a script that calls `done` with what it comes to.
    pub(crate) fn run_until_done(&self, script: &str) -> Value {
        let script = format!("const done = arguments[arguments.length - 1];\n{script}");
        self.of_session("/execute/async", &json!({"script": script, "args": []}))
    }

    fn act(&self, actions: &Value) {
        self.of_session("/actions", &json!({"actions": [actions]}));
    }

    /// Clicks at a place in the window.
    pub(crate) fn click(&self, x: f64, y: f64) {
        self.act(
            &json!({"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [
                {"type": "pointerMove", "duration": 0, "x": x.round() as i64, "y": y.round() as i64},
                {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0},
            ]}),
        );
    }

    /// Presses a button there, moves, lets go.
    pub(crate) fn drag(&self, from: (f64, f64), to: (f64, f64)) {
        let at = |(x, y): (f64, f64)| (x.round() as i64, y.round() as i64);
        let ((x0, y0), (x1, y1)) = (at(from), at(to));
        self.act(&json!({"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [
            {"type": "pointerMove", "duration": 0, "x": x0, "y": y0}, {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "duration": 50, "x": x1, "y": y1}, {"type": "pointerUp", "button": 0},
        ]}));
    }

    /// Turns the wheel there.
    pub(crate) fn wheel(&self, x: f64, y: f64, by: i64) {
        self.act(&json!({"type": "wheel", "id": "wheel", "actions": [
            {"type": "scroll", "duration": 0, "x": x.round() as i64, "y": y.round() as i64, "deltaX": 0, "deltaY": by},
        ]}));
    }

    /// Types.
    pub(crate) fn type_keys(&self, keys: &str) {
        let strokes = keys.chars().flat_map(|key| {
            [
                json!({"type": "keyDown", "value": key.to_string()}),
                json!({"type": "keyUp", "value": key.to_string()}),
            ]
        });
        self.act(&json!({"type": "key", "id": "keyboard", "actions": strokes.collect::<Vec<_>>()}));
    }

    /// Whatever the page has complained of, and every request for anything but the page itself.
    pub(crate) fn complaints(&self, page: &Path) -> Vec<String> {
        let log = |kind: &str| self.of_session("/se/log", &json!({"type": kind}));
        let mut complaints = Vec::new();
        for entry in log("browser").as_array().into_iter().flatten() {
            complaints.push(entry["message"].to_string());
        }
        let own = format!("file://{}", page.display());
        for entry in log("performance").as_array().into_iter().flatten() {
            let message: Value =
                serde_json::from_str(entry["message"].as_str().unwrap_or("{}")).unwrap_or_default();
            let message = &message["message"];
            let (params, method) = (&message["params"], &message["method"]);
            // The browser's own first page is not to be blamed on this one.
            let url = params["request"]["url"].as_str().unwrap_or_default();
            let asked = method == "Network.requestWillBeSent" && params["documentURL"] == own.as_str();
            if asked && url != own && !url.starts_with("data:") {
                complaints.push(format!("asked the network for {url}"));
            }
        }
        complaints
    }

    /// What the window looks like, if somebody wants to see: into the directory that `RAFTKV_SCREENSHOTS` names.
    pub(crate) fn screenshot(&self, name: &str) {
        let Some(directory) = std::env::var_os("RAFTKV_SCREENSHOTS") else { return };
        let answer = self.ask("GET", &format!("/session/{}/screenshot", self.session), &Value::Null);
        let png = from_base64(answer.as_str().expect("a picture"));
        std::fs::write(Path::new(&directory).join(format!("{name}.png")), png)
            .expect("a place for the picture");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.ask("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        // It may have ended by itself.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for chunk in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = chunk.iter().fold(0u32, |bits, letter| bits << 6 | u32::from(value(*letter)));
        let bits = bits << (6 * (4 - chunk.len()));
        bytes.extend(&bits.to_be_bytes()[1..chunk.len()]);
    }
    bytes
}
