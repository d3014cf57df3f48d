//! Frames broken one rule at a time: a check that cannot fail checks nothing.

use serde_json::{Value, json};

use super::expect::Expect;

/// A frame that breaks one rule of the client.
pub struct Broken {
    pub path: String,
    pub rule: Value,
    pub frame: Value,
}

/// Every way to break a frame, by the rules that apply to it.
pub fn broken(expect: &Expect, frame: &Value) -> Vec<Broken> {
    let mut all = Vec::new();
    for (path, rule) in expect.rules_of(frame) {
        for value in ways(rule) {
            let mut frame = frame.clone();
            if put(&mut frame, path, value) {
                let (path, rule) = (path.to_owned(), rule.clone());
                all.push(Broken { path, rule, frame });
            }
        }
    }
    all
}

/// What a rule forbids; `None` is to leave the member out.
fn ways(rule: &Value) -> Vec<Option<Value>> {
    let word = rule.as_str().unwrap_or_default();
    let kind = word.trim_start_matches('?').trim_end_matches("|null");
    let mut ways = Vec::new();
    if kind == "never" {
        return vec![Some(json!(5))];
    }
    if !word.starts_with('?') {
        ways.push(None);
    }
    if !word.ends_with("|null") && kind != "any" {
        ways.push(Some(Value::Null));
    }
    match kind {
        "any" | "filled" => {}
        "array" => ways.push(Some(json!(7))),
        _ => ways.push(Some(json!([{ "": 7 }]))),
    }
    ways
}

/// Puts a value at a path, in the first item of each array on the way.
pub fn put(value: &mut Value, path: &str, new: Option<Value>) -> bool {
    let Some((head, rest)) = path.split_once('.') else {
        let Some(members) = value.as_object_mut() else {
            return false;
        };
        match new {
            Some(new) => _ = members.insert(path.into(), new),
            None => _ = members.remove(path),
        }
        return true;
    };
    let next = match head.strip_suffix("[]") {
        Some(name) => value.get_mut(name).and_then(|items| items.get_mut(0)),
        None => value.get_mut(head),
    };
    next.is_some_and(|next| put(next, rest, new))
}
