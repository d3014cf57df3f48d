//! The part of a LiteLLM proxy that hands out keys, on a real socket.
//!
//! It follows the code of `litellm` 1.108: an alias is there once, a deletion of
//! an alias that is not there is a 404 with words, errors are
//! `{"error": {"message", "type", "param", "code"}}`. A team's `max_budget` bounds what
//! its keys spend together, and a key for a team that is not there is made. It keeps every key and team it ever made, so that a test
//! can ask what has become of each.

use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::watch;

pub const MASTER_KEY: &str = "sk-master-0123456789abcdef";
/// What every value begins with; nothing else in a test does.
pub const KEY_PREFIX: &str = "sk-virt-";

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    Well,
    /// 503 to everything.
    Down,
    /// 403 to deletions.
    RefusesToDelete,
    /// Takes what it is asked, does nothing and says nothing.
    Hangs,
    /// Makes the key and never says so.
    MakesAndHangs,
    /// The same of a team.
    MakesTeamAndHangs,
    /// Deletes the team and never says so.
    DeletesTeamAndHangs,
    /// 403 to deletions of teams alone.
    RefusesToDeleteTeams,
    /// `budget_exceeded`, as the gateway says it.
    BudgetExceeded,
    /// Sends what it made through a redirect.
    Redirects,
    /// Each answer takes 700 ms.
    Slow,
}

#[derive(Clone, Debug)]
pub struct Key {
    pub alias: String,
    pub value: String,
    pub asked: Value,
    pub traceparent: String,
    pub spend: f64,
    pub made_at: jiff::Timestamp,
    pub deleted_at: Option<jiff::Timestamp>,
    pub deleted: bool,
}

#[derive(Clone, Debug)]
pub struct Team {
    pub id: String,
    pub asked: Value,
    pub spend: f64,
    pub deleted: bool,
}

#[derive(Clone)]
pub struct Gateway {
    pub address: std::net::SocketAddr,
    teams: Arc<Mutex<Vec<Team>>>,
    keys: Arc<Mutex<Vec<Key>>>,
    mood: Arc<watch::Sender<Mood>>,
    /// Moves with every change of a key.
    changed: Arc<watch::Sender<u64>>,
    deletions: Arc<Mutex<u64>>,
    /// How often it was asked to make a team.
    asked: Arc<Mutex<u64>>,
}

impl Key {
    fn delete(&mut self) {
        self.deleted = true;
        self.deleted_at = Some(jiff::Timestamp::now());
    }
}

type Answer = (StatusCode, Json<Value>);

fn error(status: StatusCode, kind: &str, message: &str) -> Answer {
    let code = status.as_u16().to_string();
    let error = json!({ "message": message, "type": kind, "param": null, "code": code });
    (status, Json(json!({ "error": error })))
}

impl Gateway {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = Self {
            address: listener.local_addr().unwrap(),
            keys: Arc::default(),
            teams: Arc::default(),
            mood: Arc::new(watch::Sender::new(Mood::Well)),
            changed: Arc::default(),
            deletions: Arc::default(),
            asked: Arc::default(),
        };
        let app = Router::new()
            .route("/key/generate", post(generate))
            .route("/key/delete", post(delete))
            .route("/key/list", get(list))
            .route("/team/new", post(new_team))
            .route("/team/delete", post(delete_team))
            .with_state(gateway.clone());
        tokio::spawn(axum::serve(listener, app).into_future());
        gateway
    }

    /// The configuration of a runtime that uses it, its key file in `dir`.
    pub fn toml(&self, dir: &std::path::Path) -> String {
        let key = secret_file(dir, "master.key", MASTER_KEY);
        format!(
            "[credentials]\nprovisioner = \"litellm\"\nurl = \"http://{}\"\n\
             models = [\"tier-fast/a\", \"tier-fast/b\", \"gpt-x\"]\nmaster_key_file = {key:?}\n",
            self.address
        )
    }

    pub fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub fn keys(&self) -> Vec<Key> {
        self.keys.lock().unwrap().clone()
    }

    pub fn live(&self) -> Vec<Key> {
        self.keys().into_iter().filter(|key| !key.deleted).collect()
    }

    pub fn spend(&self, alias: &str, amount: f64) {
        let mut keys = self.keys.lock().unwrap();
        let key = keys.iter_mut().find(|key| key.alias == alias);
        key.expect("a key of this alias").spend += amount;
    }

    /// What the gateway does for each call of a model: false when it is refused, which
    /// is once the key, or all of its team, have spent more than they may.
    pub fn use_model(&self, value: &str, cost: f64) -> bool {
        let over = |spend: f64, asked: &Value| {
            let cap = asked["max_budget"].as_f64();
            cap.is_some_and(|cap| spend >= cap)
        };
        let mut keys = self.keys.lock().unwrap();
        let mut teams = self.teams.lock().unwrap();
        let live = |key: &&mut Key| key.value == value && !key.deleted;
        let Some(key) = keys.iter_mut().find(live) else {
            return false;
        };
        let team = teams
            .iter_mut()
            .find(|team| key.asked["team_id"] == *team.id);
        if over(key.spend, &key.asked) || team.as_ref().is_some_and(|of| over(of.spend, &of.asked))
        {
            return false;
        }
        key.spend += cost;
        if let Some(team) = team {
            team.spend += cost;
        }
        true
    }

    pub fn teams(&self) -> Vec<Team> {
        self.teams.lock().unwrap().clone()
    }

    pub async fn until_teams_are_deleted(&self) {
        self.until_teams(|teams| teams.iter().all(|team| team.deleted))
            .await;
    }

    /// Waits until the teams are as wanted.
    pub async fn until_teams(&self, wanted: impl Fn(&[Team]) -> bool) {
        let mut changed = self.changed.subscribe();
        let gone = |_: &u64| wanted(&self.teams.lock().unwrap());
        let limit = std::time::Duration::from_secs(30);
        let waited = tokio::time::timeout(limit, changed.wait_for(gone)).await;
        assert!(waited.is_ok(), "{:?}", self.teams());
    }

    /// How often it was asked to delete something.
    pub fn deletions(&self) -> u64 {
        *self.deletions.lock().unwrap()
    }

    /// Waits until the keys are as wanted.
    pub async fn until(&self, wanted: impl Fn(&[Key]) -> bool) -> Vec<Key> {
        let mut changed = self.changed.subscribe();
        let there = changed.wait_for(|_| wanted(&self.keys.lock().unwrap()));
        let limit = std::time::Duration::from_secs(30);
        let waited = tokio::time::timeout(limit, there).await.map(drop);
        let keys = self.keys();
        assert!(waited.is_ok(), "the keys stay {keys:?}");
        keys
    }

    pub async fn until_all_deleted(&self) -> Vec<Key> {
        let gone = |keys: &[Key]| !keys.is_empty() && keys.iter().all(|key| key.deleted);
        self.until(gone).await
    }

    pub async fn until_deletions(&self, at_least: u64) {
        let mut changed = self.changed.subscribe();
        let there = changed.wait_for(|_| self.deletions() >= at_least);
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, there)
            .await
            .expect("deletions")
            .unwrap();
    }

    /// Waits until it was asked to make so many teams, and has or will not.
    pub async fn until_asked(&self, at_least: u64) {
        let mut changed = self.changed.subscribe();
        let there = changed.wait_for(|_| *self.asked.lock().unwrap() >= at_least);
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, there)
            .await
            .expect("a question")
            .unwrap();
    }

    async fn think(&self) {
        if self.mood() == Mood::Slow {
            tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        }
    }

    /// Until it is in another mood.
    async fn hang_in(&self, mood: Mood) {
        let mut moods = self.mood.subscribe();
        let _ = moods.wait_for(|now| *now != mood).await;
    }

    fn mood(&self) -> Mood {
        *self.mood.borrow()
    }

    fn was_asked(&self) {
        *self.asked.lock().unwrap() += 1;
        self.touch();
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Answer> {
        let shown = headers.get("authorization").and_then(|v| v.to_str().ok());
        if shown != Some(&format!("Bearer {MASTER_KEY}")) {
            // The real one repeats a part of the key it was shown.
            let text = format!("Authentication Error, Received API Key = {shown:?}");
            return Err(error(StatusCode::UNAUTHORIZED, "auth_error", &text));
        }
        match self.mood() {
            Mood::Down => Err(error(
                StatusCode::SERVICE_UNAVAILABLE,
                "internal_server_error",
                "down",
            )),
            _ => Ok(()),
        }
    }
}

async fn generate(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Json(asked): Json<Value>,
) -> Result<Answer, Answer> {
    gateway.check(&headers)?;
    gateway.think().await;
    match gateway.mood() {
        Mood::BudgetExceeded => {
            let text = "Budget has been exceeded! Current cost: 7, Max budget: 5";
            return Err(error(StatusCode::BAD_REQUEST, "budget_exceeded", text));
        }
        Mood::Redirects => {
            return Ok((StatusCode::TEMPORARY_REDIRECT, Json(json!({}))));
        }
        _ => {}
    }
    let alias = asked["key_alias"].as_str().unwrap_or_default().to_owned();
    let value = format!("{KEY_PREFIX}{:032x}", rand::random::<u128>());
    {
        let mut keys = gateway.keys.lock().unwrap();
        if keys.iter().any(|key| key.alias == alias && !key.deleted) {
            let text = format!("Key with alias '{alias}' already exists.");
            return Err(error(StatusCode::BAD_REQUEST, "bad_request_error", &text));
        }
        let traceparent = headers.get("traceparent").and_then(|v| v.to_str().ok());
        keys.push(Key {
            alias: alias.clone(),
            value: value.clone(),
            asked: asked.clone(),
            traceparent: traceparent.unwrap_or_default().to_owned(),
            spend: 0.0,
            made_at: jiff::Timestamp::now(),
            deleted_at: None,
            deleted: false,
        });
    }
    gateway.touch();
    gateway.hang_in(Mood::MakesAndHangs).await;
    Ok((
        StatusCode::OK,
        Json(json!({ "key": value, "key_alias": alias, "expires": null })),
    ))
}

async fn delete(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Json(asked): Json<Value>,
) -> Result<Answer, Answer> {
    *gateway.deletions.lock().unwrap() += 1;
    gateway.touch();
    gateway.check(&headers)?;
    if gateway.mood() == Mood::RefusesToDelete {
        let text = format!("{{'error': 'not yours'}} {MASTER_KEY}");
        return Err(error(StatusCode::FORBIDDEN, "auth_error", &text));
    }
    let aliases = asked["key_aliases"].as_array().cloned().unwrap_or_default();
    let mut deleted = 0;
    for key in gateway.keys.lock().unwrap().iter_mut() {
        if !key.deleted && aliases.iter().any(|alias| *alias == key.alias) {
            key.delete();
            deleted += 1;
        }
    }
    gateway.touch();
    match deleted {
        0 => {
            let text = "{'error': 'No keys found'}";
            Err(error(StatusCode::NOT_FOUND, "internal_server_error", text))
        }
        _ => Ok((StatusCode::OK, Json(json!({ "deleted_keys": aliases })))),
    }
}

async fn new_team(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Json(asked): Json<Value>,
) -> Result<Answer, Answer> {
    gateway.check(&headers)?;
    gateway.think().await;
    if gateway.mood() == Mood::Hangs {
        gateway.was_asked();
        return std::future::pending().await;
    }
    let id = asked["team_id"].as_str().unwrap_or_default().to_owned();
    let answer = json!({ "team_id": id });
    {
        let mut teams = gateway.teams.lock().unwrap();
        if teams.iter().any(|team| team.id == id && !team.deleted) {
            let text = format!("{{'error': 'Team id = {id} already exists.'}}");
            return Err(error(StatusCode::BAD_REQUEST, "bad_request_error", &text));
        }
        teams.push(Team {
            id,
            asked,
            spend: 0.0,
            deleted: false,
        });
    }
    gateway.was_asked();
    gateway.hang_in(Mood::MakesTeamAndHangs).await;
    Ok((StatusCode::OK, Json(answer)))
}

/// Its keys go with it.
async fn delete_team(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Json(asked): Json<Value>,
) -> Result<Answer, Answer> {
    *gateway.deletions.lock().unwrap() += 1;
    gateway.touch();
    gateway.check(&headers)?;
    let refuses = [Mood::RefusesToDelete, Mood::RefusesToDeleteTeams];
    if refuses.contains(&gateway.mood()) {
        let text = format!("{{'error': 'not yours'}} {MASTER_KEY}");
        return Err(error(StatusCode::FORBIDDEN, "auth_error", &text));
    }
    let id = asked["team_ids"][0].as_str().unwrap_or_default();
    let found = {
        let mut teams = gateway.teams.lock().unwrap();
        let team = teams.iter_mut().find(|team| team.id == id && !team.deleted);
        team.map(|team| team.deleted = true).is_some()
    };
    for key in gateway.keys.lock().unwrap().iter_mut() {
        if !key.deleted && key.asked["team_id"] == *id {
            key.delete();
        }
    }
    gateway.touch();
    gateway.hang_in(Mood::DeletesTeamAndHangs).await;
    match found {
        true => Ok((StatusCode::OK, Json(json!({ "deleted_teams": [id] })))),
        false => {
            let text = format!("{{'error': 'Team not found, passed team_id={id}'}}");
            Err(error(StatusCode::NOT_FOUND, "internal_server_error", &text))
        }
    }
}

async fn list(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Query(query): Query<std::collections::HashMap<String, String>>,
) -> Result<Answer, Answer> {
    gateway.check(&headers)?;
    assert_eq!(query["return_full_object"], "true");
    let keys = gateway.keys();
    let found = keys
        .iter()
        .filter(|key| key.alias == query["key_alias"] && !key.deleted);
    let found: Vec<_> = found
        .map(|key| json!({ "spend": key.spend, "max_budget": key.asked["max_budget"] }))
        .collect();
    Ok((StatusCode::OK, Json(json!({ "keys": found }))))
}

/// A file that only its owner can read.
pub fn secret_file(dir: &std::path::Path, name: &str, text: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}
