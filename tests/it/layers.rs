//! The map in `src/lib.rs`, held against what the source imports.
//!
//! A line of the map names modules, and in brackets the modules within one; what it imports stands on the same line or on one
//! below. Modules of a line that speaks of adapters never import each other. No modules of one folder import each other in a
//! circle. A test's own imports do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Arrows that are wrong and still there. It is to stay empty.
const EXCEPTIONS: &[&str] = &[];

/// A module, by its path from the crate: `["eni", "task"]`.
type Module = Vec<String>;

#[test]
fn the_source_imports_what_the_map_in_lib_says() {
    let arrows = arrows();
    let lines = map();
    let mut wrong = BTreeSet::new();

    let top: BTreeSet<&str> = arrows.keys().filter_map(|module| module.first()).map(String::as_str).collect();
    let drawn: Vec<&str> = lines.iter().flat_map(|line| &line.modules).map(|module| module[0].as_str()).collect();
    let drawn_once: BTreeSet<&str> = drawn.iter().copied().collect();
    assert_eq!(drawn_once.symmetric_difference(&top).collect::<Vec<_>>(), Vec::<&&str>::new(), "the map's modules");
    for inner in lines.iter().flat_map(|line| &line.modules).filter(|module| module.len() > 1) {
        assert!(arrows.contains_key(inner), "the map has {}, and the source has not", inner.join("::"));
    }

    for (from, to) in arrows.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
        let (Some(from_line), Some(to_line)) = (line_of(&lines, from), line_of(&lines, to)) else { continue };
        let are_adapters = from_line == to_line && lines[from_line].are_adapters;
        if from[0] != to[0] && (from_line > to_line || are_adapters) || are_adapters && adapter(from) != adapter(to) {
            wrong.insert(format!("{} -> {}", from.join("::"), to.join("::")));
        }
    }
    wrong.extend(circles(&arrows));

    let excepted: BTreeSet<String> = EXCEPTIONS.iter().map(|arrow| (*arrow).to_owned()).collect();
    let new: Vec<&String> = wrong.difference(&excepted).collect();
    assert!(new.is_empty(), "these imports are against the map in src/lib.rs:\n{new:#?}");
    let mended: Vec<&String> = excepted.difference(&wrong).collect();
    assert!(mended.is_empty(), "these are mended: strike them off\n{mended:#?}");
}

struct Line {
    modules: Vec<Module>,
    are_adapters: bool,
}

/// The lines of the map, the highest first. A line that begins with blanks goes on with the one before.
fn map() -> Vec<Line> {
    let lib = std::fs::read_to_string(source().join("lib.rs")).unwrap();
    let text = lib.split("//! # Map").nth(1).and_then(|rest| rest.split("```").nth(1)).expect("a map");
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().skip(1).map(|line| line.strip_prefix("//! ").unwrap_or_default()) {
        match lines.last_mut() {
            Some(last) if line.starts_with(' ') => last.push_str(line),
            _ if line.is_empty() => {}
            _ => lines.push(line.to_owned()),
        }
    }
    lines.iter().map(|line| Line::read(line)).collect()
}

impl Line {
    fn read(line: &str) -> Self {
        let (names, about) = line.split_once("  ").unwrap_or((line, ""));
        let mut modules = Vec::new();
        let mut rest = names;
        while !rest.is_empty() {
            let end = rest.find([',', '(']).unwrap_or(rest.len());
            let name = rest[..end].trim().to_owned();
            rest = &rest[end..];
            if let Some(inner) = rest.strip_prefix('(') {
                let (inner, after) = inner.split_once(')').expect("a closing bracket");
                modules.extend(inner.split(',').map(|inner| vec![name.clone(), inner.trim().to_owned()]));
                rest = after;
            }
            modules.push(vec![name]);
            rest = rest.trim_start_matches([',', ' ']);
        }
        modules.retain(|module| module != &["main"]);
        Self { modules, are_adapters: about.contains("adapters") }
    }
}

/// The line that has the module, or else the one that has its outermost module.
fn line_of(lines: &[Line], module: &[String]) -> Option<usize> {
    let has = |depth: usize| {
        let path = module.get(..depth)?;
        lines.iter().position(|line| line.modules.iter().any(|drawn| drawn == path))
    };
    has(2).or_else(|| has(1))
}

/// Which adapter a module of such a line belongs to: the folder's own file is of none.
fn adapter(module: &Module) -> &[String] {
    let are_in_a_folder = module[0] == "outside";
    &module[..module.len().min(1 + usize::from(are_in_a_folder))]
}

/// Where modules of one folder import each other in a circle: the arrows of it.
fn circles(arrows: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<String> {
    // Between siblings: what a module within imports counts for the one that it is in. The folder's own file is everybody's.
    let mut siblings: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (from, to) in arrows.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
        let common = from.iter().zip(to).take_while(|(from, to)| from == to).count();
        if common < from.len() && common < to.len() {
            siblings.entry(from[..=common].to_vec()).or_default().insert(to[..=common].to_vec());
        }
    }
    let reaches = |from: &Module, to: &Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            if seen.insert(module.clone()) {
                next.extend(siblings.get(&module).into_iter().flatten().cloned());
            }
        }
        seen.contains(to)
    };
    let all = siblings.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to)));
    all.filter(|(from, to)| reaches(to, from))
        .map(|(from, to)| format!("{} -> {}", from.join("::"), to.join("::")))
        .collect()
}

/// What each module of the source imports of others.
fn arrows() -> BTreeMap<Module, BTreeSet<Module>> {
    let mut files = Vec::new();
    collect(&source(), &mut Vec::new(), &mut files);
    let modules: BTreeSet<Module> = files.iter().map(|(module, _)| module.clone()).collect();
    // Of a path to an item of a module, the module.
    let module_of =
        |path: Module| (1..=path.len()).rev().map(|n| path[..n].to_vec()).find(|path| modules.contains(path));
    let imports = |(module, text): &(Module, String)| {
        let others = paths(module, text).into_iter().filter_map(module_of).filter(|other| other != module);
        (module.clone(), others.collect())
    };
    files.iter().map(imports).collect()
}

fn source() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every file but the roots and those of tests, as a module and its text.
fn collect(dir: &Path, at: &mut Module, files: &mut Vec<(Module, String)>) {
    for entry in dir.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_stem().unwrap().to_str().unwrap().to_owned();
        if entry.is_dir() {
            at.push(name);
            collect(&entry, at, files);
            at.pop();
        } else if entry.extension().is_some_and(|kind| kind == "rs")
            && name != "tests"
            && !(at.is_empty() && (name == "lib" || name == "main"))
        {
            let module = at.iter().cloned().chain((name != "mod").then_some(name)).collect();
            let text = std::fs::read_to_string(&entry).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap().to_owned();
            files.push((module, text));
        }
    }
}

/// The paths from the crate's root that a file names, comments aside.
fn paths(module: &[String], text: &str) -> Vec<Module> {
    let mut paths = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        assert!(!line.contains("crate::{"), "one import a line, as elsewhere: {line}");
        let mut rest = line;
        while let Some(at) = [rest.find("crate::"), rest.find("super::")].into_iter().flatten().min() {
            let is_whole = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            rest = &rest[at..];
            // Above the file's own module once; a module within the file would need one more, and none is here.
            let mut path = if rest.starts_with("crate") { Vec::new() } else { module[..module.len() - 1].to_vec() };
            rest = &rest[7..];
            while let Some(after) = rest.strip_prefix("super::") {
                path.pop();
                rest = after;
            }
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
            let names = rest[..end].split("::").filter(|name| !name.is_empty()).map(ToOwned::to_owned);
            if is_whole {
                let group: Vec<Module> = match rest[end..].strip_prefix('{') {
                    // `super::{a, B}`: each may be a module.
                    Some(group) => {
                        let base: Module = path.iter().cloned().chain(names).collect();
                        let inner = group.split('}').next().unwrap().split(',');
                        let inner =
                            inner.map(|name| name.trim().split("::").map(ToOwned::to_owned).collect::<Module>());
                        inner.map(|inner| base.iter().cloned().chain(inner).collect()).collect()
                    }
                    None => vec![path.into_iter().chain(names).collect()],
                };
                paths.extend(group);
            }
            rest = &rest[end..];
        }
    }
    paths
}
