//! The sets of values that every check of the chart goes through.

use std::path::Path;

use super::helm::{CHART, values};

fn example(name: &str) -> String {
    format!("{CHART}/examples/{name}.yaml")
}

/// The blocks of YAML in the docs, each a file of values.
fn documented() -> Vec<String> {
    const DOCS: &str = include_str!("../../docs/kubernetes.md");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let blocks = DOCS.split("```yaml\n").skip(1).enumerate();
    let blocks = blocks.map(|(n, text)| {
        let (block, _) = text.split_once("```").unwrap();
        let path = dir.join(format!("kubernetes-{n}.yaml"));
        // Tests beside this one write the same.
        let next = tempfile::NamedTempFile::new_in(dir).unwrap();
        std::fs::write(&next, block).unwrap();
        next.persist(&path).unwrap();
        path.display().to_string()
    });
    blocks.collect()
}

/// The values every check goes through.
pub fn matrix() -> Vec<Vec<String>> {
    let file = |path: String| vec!["--values".to_owned(), path];
    let documented = documented().into_iter().map(file);
    let mut matrix = vec![
        vec![],
        file(values("cluster")),
        file(values("everything")),
        file(values("hostile")),
        file(values("scalars")),
        file(example("agent-host")),
        file(example("jaeger")),
        file(example("backup")),
        file(example("restore")),
        file(example("move")),
    ];
    assert!(documented.len() >= 9, "{}", documented.len());
    matrix.extend(documented);
    matrix
}
