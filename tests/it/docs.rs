//! The documents: what they name is there, what they show can be run or read, and they stay short.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use ec2_ipam::cli;
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

/// Lines that the README has at most,
const README_LIMIT: usize = 150;
/// and any other page.
const LIMIT: usize = 250;
/// What blocks of code may be: the last four are not for a program that is here.
const LANGUAGES: [&str; 9] = ["sh", "json", "yaml", "hcl", "ini", "console", "sql", "text", "mermaid"];
/// Folders of the repository, as a document names files in them.
const FOLDERS: [&str; 9] =
    [".ci/", "benches/", "crates/", "docs/", "fuzz/", "packaging/", "plugin/", "scripts/", "tests/"];

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    std::fs::read_to_string(top().join(file)).unwrap_or_else(|why| panic!("{file}: {why}"))
}

/// A document, taken apart.
struct Page {
    /// Its path from the top of the repository.
    name: String,
    text: String,
    /// All but the blocks of code.
    prose: String,
    blocks: Vec<Block>,
}

struct Block {
    /// Where it begins, for whoever reads that it is wrong.
    at: String,
    language: String,
    text: String,
}

impl Page {
    fn new(name: String) -> Self {
        let text = read(&name);
        let (mut prose, mut blocks, mut open) = (String::new(), Vec::new(), None::<(usize, Block)>);
        for (number, line) in text.lines().enumerate() {
            let inner = line.trim_start();
            let fence = inner.strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(language)) => {
                    let (at, language) = (format!("{name}:{}", number + 1), language.trim().to_owned());
                    open = Some((line.len() - inner.len(), Block { at, language, text: String::new() }));
                }
                (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
                (Some((indent, block)), None) => {
                    writeln!(block.text, "{}", line.get(*indent..).unwrap_or_default()).unwrap();
                }
                (None, None) => writeln!(prose, "{line}").unwrap(),
            }
        }
        assert!(open.is_none(), "{name}: a block of code has no end");
        Self { name, text, prose, blocks }
    }

    /// Code inside of sentences.
    fn spans(&self) -> Vec<&str> {
        let spans: Vec<&str> = self.prose.split('`').skip(1).step_by(2).collect();
        for span in &spans {
            assert!(!span.contains("\n\n") && !span.is_empty(), "{}: a backtick is missing near {span:?}", self.name);
        }
        spans
    }

    /// The targets of links and pictures.
    fn links(&self) -> Vec<String> {
        let without_code: String = self.prose.split('`').step_by(2).collect();
        let targets = without_code.split("](").skip(1);
        targets.map(|rest| rest.split(')').next().unwrap().to_owned()).collect()
    }

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        for heading in self.prose.lines().filter(|line| line.starts_with('#')) {
            let title = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            assert!(anchors.insert(anchor), "{}: two headings are called {title:?}", self.name);
        }
        anchors
    }

    /// Everything that a reader may type: commands in blocks, and those in sentences.
    fn commands(&self) -> Vec<(String, Vec<String>)> {
        let mut commands = Vec::new();
        for block in &self.blocks {
            let prompt = if block.language == "console" { "# " } else { "" };
            if !["sh", "console", "ini"].contains(&block.language.as_str()) {
                continue;
            }
            for line in block.text.replace("\\\n", " ").lines() {
                let line = line.strip_prefix("ExecStart=").unwrap_or(line);
                commands.extend(line.strip_prefix(prompt).map(|line| (block.at.clone(), line.to_owned())));
            }
        }
        let spans = self.spans();
        commands.extend(spans.into_iter().map(|span| (self.name.clone(), span.replace('\n', " "))));
        let parts = |(at, line): (String, String)| {
            let line = line.split(" # ").next().unwrap_or_default().replace("&&", ";").replace('|', ";");
            // What is sent elsewhere is the same command.
            let words = |part: &str| {
                let told = part.split(['<', '>']).next().unwrap_or_default();
                told.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
            };
            line.split(';').map(|part| (at.clone(), words(part))).collect::<Vec<_>>()
        };
        commands.into_iter().flat_map(parts).filter(|(_, words)| !words.is_empty()).collect()
    }
}

/// All documents of the repository.
fn pages() -> Vec<Page> {
    let in_folder = |folder: &str| {
        let entries = std::fs::read_dir(top().join(folder)).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".md")).map(|name| format!("{folder}{name}")).collect::<Vec<_>>()
    };
    let mut names = [in_folder(""), in_folder("docs/")].concat();
    let crates = std::fs::read_dir(top().join("crates")).into_iter().flatten();
    names.extend(crates.flat_map(|entry| in_folder(&format!("crates/{}/", entry.unwrap().file_name().display()))));
    names.sort();
    let pages: Vec<Page> = names.into_iter().map(Page::new).collect();
    assert!(pages.iter().any(|page| page.name == "docs/install.md"), "the documents are not where they were");
    pages
}

/// Where a relative link leads, from the top of the repository.
fn resolved(page: &str, target: &str) -> String {
    let mut path = PathBuf::from(page).parent().unwrap().to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{page}: {target} leads out of the repository"),
            part => path.push(part),
        }
    }
    path.into_os_string().into_string().unwrap()
}

/// `bash -n` and the like: no fault of syntax.
fn parses_in_shell(shell: &str, text: &str, at: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let done = Command::new(shell).arg("-n").arg(file.path()).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{at}: {}", String::from_utf8_lossy(&done.stderr));
}

fn yaml(block: &Block) -> Yaml {
    let read = YamlLoader::load_from_str(&block.text).unwrap_or_else(|why| panic!("{}: {why}", block.at));
    let [document] = <[Yaml; 1]>::try_from(read).unwrap_or_else(|all| panic!("{}: {} documents", block.at, all.len()));
    assert!(document.as_hash().is_some(), "{}: it has no keys", block.at);
    document
}

#[test]
fn the_documents_are_short_and_the_readme_leads_to_each() {
    let pages = pages();
    let readme = pages.iter().find(|page| page.name == "README.md").unwrap();
    for page in &pages {
        let limit = if page.name == "README.md" { README_LIMIT } else { LIMIT };
        let lines = page.text.lines().count();
        // What changed grows with each version.
        assert!(lines <= limit || page.name == "CHANGELOG.md", "{} has {lines} lines, more than {limit}", page.name);
        let is_linked = readme.links().iter().any(|link| link.split('#').next() == Some(page.name.as_str()));
        assert!(is_linked || page.name == "README.md", "the README does not lead to {}", page.name);
    }
}

#[test]
fn every_link_leads_to_a_page_and_an_anchor_that_are_there() {
    let pages = pages();
    for page in &pages {
        for link in page.links() {
            if link.contains("://") {
                assert!(link.starts_with("https://"), "{}: {link}", page.name);
                continue;
            }
            let (target, anchor) = link.split_once('#').map_or((link.as_str(), None), |(to, at)| (to, Some(at)));
            let to = if target.is_empty() { page.name.clone() } else { resolved(&page.name, target) };
            assert!(top().join(&to).exists(), "{}: there is no {link}", page.name);
            if let Some(anchor) = anchor {
                let to = pages.iter().find(|page| page.name == to);
                let anchors = to.unwrap_or_else(|| panic!("{}: {link} is no document", page.name)).anchors();
                assert!(anchors.contains(anchor), "{}: {link} is none of {anchors:?}", page.name);
            }
        }
    }
}

#[test]
fn every_setting_that_a_document_names_is_one_of_the_program() {
    let manifest: Value = serde_json::from_str(&read("config.json")).unwrap();
    let known: BTreeSet<&str> =
        manifest["env"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    // Told to the build.
    let known = |name: &str| known.contains(name) || name == "EC2_IPAM_COMMIT";
    for page in pages() {
        let names = page.text.split(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_');
        for name in names.filter(|name| name.starts_with("EC2_IPAM_") || name.starts_with("AWS_")) {
            assert!(known(name), "{}: the program has no {name}", page.name);
        }
    }
}

#[test]
fn every_command_line_is_one_that_the_program_takes() {
    let mut used = BTreeSet::new();
    for page in pages() {
        for (at, words) in page.commands() {
            let Some((program, rest)) = words.split_first() else { continue };
            if !(program == "ec2-ipam" || program.ends_with("/ec2-ipam")) || rest.is_empty() {
                continue;
            }
            // As a description has it: what may be left out, and what stands for something else.
            let meant = rest.iter().map(|word| word.trim_matches(['[', ']'])).map(|word| match word {
                "IP" => "10.0.1.50",
                "ENI" => "eni-0a1b2c3d4e5f60718",
                word => word,
            });
            let meant: Vec<&str> = ["ec2-ipam"].into_iter().chain(meant).collect();
            if let Err(why) = cli::command().try_get_matches_from(&meant) {
                let is_help = !why.use_stderr();
                assert!(is_help, "{at}: {}: {why}", words.join(" "));
            }
            used.extend(meant.into_iter().map(str::to_owned));
        }
    }
    let all: String = pages().iter().map(|page| page.text.as_str()).collect();
    for command in cli::command().get_subcommands() {
        assert!(used.contains(command.get_name()), "no document shows {}", command.get_name());
        for flag in command.get_arguments().filter(|arg| arg.get_env().is_none()).filter_map(clap::Arg::get_long) {
            assert!(all.contains(&format!("--{flag}")), "no document tells of {} --{flag}", command.get_name());
        }
    }
}

#[test]
fn every_target_of_make_and_every_file_that_a_document_names_is_there() {
    let makefile = read("Makefile");
    let scripts: String =
        ["scripts/install.sh", "scripts/demo.sh", "scripts/e2e/run.sh"].iter().map(|file| read(file)).collect();
    let is_target = |word: &str| makefile.lines().any(|line| line.starts_with(&format!("{word}:")));
    for page in pages() {
        for (at, words) in page.commands() {
            for word in words.iter().filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder))) {
                let file = word.trim_end_matches([',', '.', ':', ')']);
                assert!(file.contains('*') || top().join(file).exists(), "{at}: there is no {file}");
            }
            if words.first().is_none_or(|word| word != "make") {
                continue;
            }
            for word in &words[1..] {
                match word.trim_matches(['[', ']']).split_once('=') {
                    None => assert!(is_target(word), "{at}: there is no `make {word}`"),
                    Some((name, _)) => {
                        assert!(makefile.contains(name) || scripts.contains(name), "{at}: nothing reads {name}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_block_of_code_is_what_it_says() {
    for block in pages().iter().flat_map(|page| &page.blocks) {
        let Block { at, language, text } = block;
        match language.as_str() {
            "sh" => {
                parses_in_shell("bash", text, at);
                parses_in_shell("sh", text, at);
            }
            "json" => drop(serde_json::from_str::<Value>(text).unwrap_or_else(|why| panic!("{at}: {why}"))),
            "yaml" => drop(yaml(block)),
            "hcl" => drop(hcl_edit::parser::parse_body(text).unwrap_or_else(|why| panic!("{at}: {why}"))),
            "ini" => {
                let is_fit = |line: &&str| line.starts_with('[') && line.ends_with(']') || line.contains('=');
                assert!(text.lines().all(|line| is_fit(&line)), "{at}: not one KEY=value a line");
            }
            other => assert!(LANGUAGES.contains(&other), "{at}: {other:?} is none of {LANGUAGES:?}"),
        }
    }
}

#[test]
fn networks_of_compose_are_of_this_driver_or_external() {
    let mut seen = 0;
    for block in pages().iter().flat_map(|page| &page.blocks).filter(|block| block.language == "yaml") {
        let document = yaml(block);
        for (name, network) in document["networks"].as_hash().into_iter().flatten() {
            seen += 1;
            let is_made = network["driver"].as_str() == Some("ipvlan")
                && network["ipam"]["driver"].as_str() == Some("ec2-ipam:latest");
            assert!(is_made || network["external"].as_bool() == Some(true), "{}: {name:?}", block.at);
        }
    }
    assert!(seen > 2, "the examples of Compose are not found any more");
}

#[test]
fn what_cloud_init_runs_is_shell_and_terraform_fills_in_all_of_it() {
    for name in ["docs/provisioning.md", "docs/autoscaling.md"] {
        let page = Page::new(name.into());
        let of = |language: &str, words: &str| {
            page.blocks.iter().find(|block| block.language == language && block.text.contains(words)).expect(words)
        };
        let block = of("yaml", "#cloud-config");
        assert!(block.text.starts_with("#cloud-config\n"), "cloud-init looks for this in the first line");
        let document = yaml(block);
        for file in document["write_files"].as_vec().unwrap() {
            assert!(file["path"].as_str().unwrap().starts_with('/') && file["content"].as_str().is_some(), "{file:?}");
        }
        let scripts: Vec<&str> =
            document["runcmd"].as_vec().unwrap().iter().map(|step| step.as_str().unwrap()).collect();
        assert!(!scripts.is_empty());
        scripts.iter().for_each(|script| parses_in_shell("sh", script, &block.at));

        let terraform = &of("hcl", "templatefile").text;
        let given = terraform.split_once("cloud-init.yaml\", {").unwrap().1.split_once("})").unwrap().0;
        let given: BTreeSet<&str> = given.lines().filter_map(|line| Some(line.split_once('=')?.0.trim())).collect();
        let wanted: BTreeSet<&str> =
            block.text.split("${").skip(1).map(|rest| rest.split_once('}').unwrap().0).collect();
        assert_eq!(given, wanted);
    }
}

#[test]
fn every_promise_of_the_code_is_in_its_document() {
    let numbers = |text: &str, before: &str, after: &str| -> BTreeSet<u32> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(before)?.split_once(after));
        lines.filter_map(|(number, _)| number.parse().ok()).collect()
    };
    let promised = numbers(&read("src/lib.rs"), "//! - I", " ");
    assert!(promised.len() >= 10);
    assert_eq!(numbers(&read("ARCHITECTURE.md"), "| I", " |"), promised);
}
