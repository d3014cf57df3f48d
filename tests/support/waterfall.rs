//! A trace as Jaeger's query API has it, drawn as an SVG.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::Value;

const ROW: usize = 26;
const LABELS: usize = 330;
const BARS: usize = 560;

struct Bar<'a> {
    depth: usize,
    span: &'a Value,
}

fn time(span: &Value, name: &str) -> u64 {
    span[name].as_u64().unwrap()
}

pub fn id(span: &Value) -> &str {
    span["spanID"].as_str().unwrap()
}

pub fn name(span: &Value) -> &str {
    span["operationName"].as_str().unwrap()
}

/// The span's parent; a link is no parent.
pub fn parent(span: &Value) -> Option<&str> {
    let references = span["references"].as_array()?.iter();
    let mut parents = references.filter(|of| of["refType"] == "CHILD_OF");
    parents.next()?["spanID"].as_str()
}

/// Children below their parents, in the order they began.
fn bars<'a>(spans: &'a [Value], of: Option<&str>, depth: usize, out: &mut Vec<Bar<'a>>) {
    let mut children: Vec<_> = spans.iter().filter(|span| parent(span) == of).collect();
    children.sort_by_key(|span| (time(span, "startTime"), id(span)));
    for span in children {
        out.push(Bar { depth, span });
        bars(spans, Some(id(span)), depth + 1, out);
    }
}

fn failed(span: &Value) -> bool {
    let tags = span["tags"].as_array().unwrap();
    tags.iter()
        .any(|tag| tag["key"] == "error" && tag["value"] == true)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn took(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        _ => format!("{:.1} ms", us as f64 / 1e3),
    }
}

/// The picture of `answer["data"][0]`.
pub fn svg(answer: &Value) -> String {
    let trace = &answer["data"][0];
    let spans = trace["spans"].as_array().unwrap();
    let mut rows = Vec::new();
    bars(spans, None, 0, &mut rows);
    assert_eq!(rows.len(), spans.len(), "every span has its parent");
    let begin = spans
        .iter()
        .map(|span| time(span, "startTime"))
        .min()
        .unwrap();
    let end = |span: &Value| time(span, "startTime") + time(span, "duration");
    let whole = (spans.iter().map(end).max().unwrap() - begin).max(1);
    let at = |us: u64| us as f64 / whole as f64 * BARS as f64;
    let mut colours: HashMap<&str, &str> = HashMap::new();
    let (width, height) = (LABELS + BARS + 90, ROW * (rows.len() + 1) + 12);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for quarter in 0..=4 {
        let (x, us) = (LABELS + BARS * quarter / 4, whole * quarter as u64 / 4);
        let text = took(us);
        let below = height - 6;
        writeln!(
            svg,
            "<path d=\"M{x} {ROW}V{below}\" stroke=\"#ddd\"/><text x=\"{x}\" y=\"17\" fill=\"#666\">{text}</text>"
        )
        .unwrap();
    }
    for (index, Bar { depth, span }) in rows.iter().enumerate() {
        let y = ROW * (index + 1);
        let process = span["processID"].as_str().unwrap();
        let service = trace["processes"][process]["serviceName"].as_str().unwrap();
        let next = ["#17b8be", "#b7885e", "#829ae3", "#f8dcbc"][colours.len() % 4];
        let colour = match failed(span) {
            true => "#d62728",
            false => colours.entry(service).or_insert(next),
        };
        let name = escaped(name(span));
        let (indent, base) = (10 + 14 * depth, y + 17);
        let from = LABELS as f64 + at(time(span, "startTime") - begin);
        // Jaeger, too, shows what took no time.
        let wide = at(time(span, "duration")).max(2.0);
        let (top, after) = (y + 6, from + wide + 5.0);
        let text = took(time(span, "duration"));
        writeln!(
            svg,
            "<text x=\"{indent}\" y=\"{base}\"><tspan font-weight=\"bold\">{service}</tspan> {name}</text>\n\
             <rect x=\"{from:.1}\" y=\"{top}\" width=\"{wide:.1}\" height=\"14\" rx=\"2\" fill=\"{colour}\"/>\
             <text x=\"{after:.1}\" y=\"{base}\" fill=\"#666\">{text}</text>"
        )
        .unwrap();
    }
    svg + "</svg>\n"
}
