//! The structure of the sources: each dependency has one room, imports point one way, files and functions are small.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// The crates that are shipped, and the benchmarks: folder, name in paths.
const CRATES: [(&str, &str); 4] = [
    ("ledger", "ledger"),
    ("pg_ext", "sluice"),
    ("ingester", "sluice"),
    ("bench", "bench"),
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder of ours") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a source file")
}

#[test]
fn every_dependency_is_named_in_its_room_only() {
    let top = top();
    for (dependency, package, room) in [
        ("rdkafka::", "ingester/src", "ingester/src/kafka/"),
        ("redis::", "ingester/src", "ingester/src/redis_marks.rs"),
        ("axum::", "ingester/src", "ingester/src/http/"),
        (
            "prometheus_client::",
            "ingester/src",
            "ingester/src/observe/",
        ),
        (
            "openssl::ssl",
            "ingester/src",
            "ingester/src/{tls.rs,postgres/database.rs,redis_marks.rs}",
        ),
        ("refinery::", "ingester/src", "ingester/src/schema/lines.rs"),
        ("clap", "ingester/src", "ingester/src/{cli/,config/}"),
        (
            "println!",
            "ingester/src",
            "ingester/src/{cli/,terminal.rs}",
        ),
        ("pg_sys", "pg_ext/src", "pg_ext/src/{pg/,error}"),
        ("pg_extern", "pg_ext/src", "pg_ext/src/api.rs"),
        ("GucRegistry", "pg_ext/src", "pg_ext/src/settings.rs"),
    ] {
        let (before, choices) = room.split_once('{').unwrap_or((room, "}"));
        let rooms: Vec<String> = choices
            .trim_end_matches('}')
            .split(',')
            .map(|choice| format!("{before}{choice}"))
            .collect();
        let naming: Vec<String> = sources(&top.join(package))
            .into_iter()
            .filter(|path| {
                let text = read(path);
                let mut code = text.lines().map(|line| line.split("//").next());
                code.any(|code| code.is_some_and(|code| code.contains(dependency)))
            })
            .map(|path| {
                path.strip_prefix(&top)
                    .expect("below it")
                    .display()
                    .to_string()
            })
            .collect();
        assert!(
            !naming.is_empty(),
            "nobody names {dependency}: mend this test"
        );
        let strangers: Vec<_> = naming
            .iter()
            .filter(|path| !rooms.iter().any(|room| path.starts_with(room)))
            .collect();
        assert!(
            strangers.is_empty(),
            "{dependency} is named in {strangers:?}"
        );
    }
}

/// The modules of a crate by their path (`http::api`), each with what it names of the others.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn imports(folder: &str, name: &str) -> Imports {
    let root = top().join(folder).join("src");
    let files: BTreeMap<String, PathBuf> = sources(&root)
        .into_iter()
        .filter(|path| !path.starts_with(root.join("bin")))
        .map(|path| (module(path.strip_prefix(&root).expect("below it")), path))
        .collect();
    let known: BTreeSet<&str> = files.keys().map(String::as_str).collect();
    let found = files.iter().map(|(module, path)| {
        let file = syn::parse_file(&read(path)).expect("Rust that compiles");
        let mut named = Named {
            name,
            module,
            known: &known,
            found: BTreeSet::new(),
        };
        named.visit_file(&file);
        named.found.remove(module);
        (module.clone(), named.found)
    });
    let mut found: Imports = found.collect();
    // What stands at the top may name all others: nobody names it.
    found.remove("lib");
    found.remove("main");
    found
}

fn module(path: &Path) -> String {
    let path = path.with_extension("");
    let mut parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    if parts.last() == Some(&"mod") {
        parts.pop();
    }
    parts.join("::")
}

/// Collects the modules that a file names by paths.
struct Named<'a> {
    name: &'a str,
    module: &'a str,
    known: &'a BTreeSet<&'a str>,
    found: BTreeSet<String>,
}

impl Named<'_> {
    fn path(&mut self, path: &[String]) {
        let here: Vec<&str> = self.module.split("::").collect();
        let ups = path.iter().take_while(|part| *part == "super").count();
        let (from, rest) = match path.first().map(String::as_str) {
            Some("crate") => (&here[..0], &path[1..]),
            Some(first) if first == self.name => (&here[..0], &path[1..]),
            Some("self") => (&here[..], &path[1..]),
            Some("super") if ups <= here.len() => (&here[..here.len() - ups], &path[ups..]),
            // A module within this one.
            _ => (&here[..], path),
        };
        let mut whole = from.to_vec();
        whole.extend(rest.iter().map(String::as_str));
        while !whole.is_empty() {
            let module = whole.join("::");
            if self.known.contains(module.as_str()) {
                self.found.insert(module);
                return;
            }
            whole.pop();
        }
    }

    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.path(&with(&name.ident)),
            UseTree::Rename(name) => self.path(&with(&name.ident)),
            UseTree::Glob(_) => self.path(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(before, tree)),
        }
    }
}

fn is_of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let of = attribute.path().is_ident("cfg");
        of && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

impl<'ast> Visit<'ast> for Named<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Mod(module) if is_of_tests(&module.attrs) => {}
            Item::Use(used) => self.tree(&[], &used.tree),
            item => visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts = path.segments.iter().map(|part| part.ident.to_string());
        let parts: Vec<String> = parts.collect();
        if parts.len() > 1 {
            self.path(&parts);
        }
        visit::visit_path(self, path);
    }
}

/// Those that name each other in a circle, if any do.
fn circle(imports: &Imports) -> Option<BTreeSet<String>> {
    let mut left = imports.clone();
    loop {
        let names: BTreeSet<String> = left.keys().cloned().collect();
        for named in left.values_mut() {
            named.retain(|name| names.contains(name));
        }
        let before = left.len();
        // Neither who names nobody nor who is named by nobody is in a circle.
        let named: BTreeSet<String> = left.values().flatten().cloned().collect();
        left.retain(|name, names| !names.is_empty() && named.contains(name));
        if left.len() == before {
            return (!left.is_empty()).then(|| left.into_keys().collect());
        }
    }
}

fn of_folders(imports: &Imports) -> Imports {
    let folder = |module: &String| module.split("::").next().unwrap_or_default().to_owned();
    let mut folders = Imports::new();
    for (module, named) in imports {
        let folders = folders.entry(folder(module)).or_default();
        folders.extend(named.iter().map(folder));
        folders.remove(&folder(module));
    }
    folders
}

#[test]
fn imports_point_one_way() {
    for (folder, name) in CRATES {
        let imports = imports(folder, name);
        let edges: usize = imports.values().map(BTreeSet::len).sum();
        assert!(
            edges > 10,
            "{folder}: hardly anything is imported: mend this test"
        );
        for (what, imports) in [("modules", &imports), ("folders", &of_folders(&imports))] {
            let circle = circle(imports);
            let named = circle.iter().flatten();
            let named = named.map(|name| format!("{name} → {:?}", imports[name]));
            assert!(
                circle.is_none(),
                "{folder}: {what} that name each other in a circle:\n{}",
                named.collect::<Vec<_>>().join("\n")
            );
        }
    }
}

#[test]
fn a_circle_is_found() {
    let imports = |pairs: &[(&str, &str)]| {
        let mut imports = Imports::new();
        for (from, to) in pairs {
            imports
                .entry((*from).into())
                .or_default()
                .insert((*to).into());
            imports.entry((*to).into()).or_default();
        }
        imports
    };
    assert_eq!(
        circle(&imports(&[("a", "b"), ("b", "c"), ("a", "c")])),
        None
    );
    let around = circle(&imports(&[("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")]));
    assert_eq!(around, Some(BTreeSet::from(["b".into(), "c".into()])));
    let rooms = of_folders(&imports(&[("a::x", "b::x"), ("b::y", "a::y")]));
    assert_eq!(
        circle(&rooms),
        Some(BTreeSet::from(["a".into(), "b".into()]))
    );
}

/// The rooms that ARCHITECTURE.md lists, and whatever else it names by its path, are there; and all rooms are listed.
#[test]
fn the_architecture_names_what_is_there() {
    let text = read(&top().join("ARCHITECTURE.md"));
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let folders = [
        "ledger/",
        "pg_ext/",
        "ingester/",
        "sql/",
        "docs/",
        "tests/",
        "model/",
        "migrations/",
        "bridge/",
        "families/",
        "schemas/",
        "deploy/",
    ];
    let paths = named
        .iter()
        .filter(|name| folders.iter().any(|folder| name.starts_with(folder)));
    let missing: Vec<_> = paths.filter(|path| !top().join(path).exists()).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names {missing:?}");
    let source = top().join("ingester/src");
    for entry in std::fs::read_dir(source).expect("the ingester's sources") {
        let entry = entry.expect("a readable entry");
        let mut name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            name.push('/');
        }
        let is_room = !["lib.rs", "main.rs", "fault.rs"].contains(&name.as_str());
        assert!(
            !is_room || named.contains(&name.as_str()),
            "ARCHITECTURE.md does not list {name}"
        );
    }
}

/// Lines of a file of the product, and of a function.
const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;

/// Functions of a file that are longer than may be, those of its tests left out.
#[derive(Default)]
struct Long {
    found: Vec<String>,
    functions: usize,
}

impl Long {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let begins = syn::spanned::Spanned::span(signature).start().line;
        let lines = block.brace_token.span.close().end().line - begins + 1;
        self.functions += 1;
        if lines > FUNCTION_LINES {
            self.found
                .push(format!("{}: {lines} lines", signature.ident));
        }
    }
}

impl<'ast> Visit<'ast> for Long {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_of_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.function(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.function(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }
}

fn long_functions(text: &str) -> Long {
    let mut long = Long::default();
    long.visit_file(&syn::parse_file(text).expect("Rust that compiles"));
    long
}

#[test]
fn files_and_functions_fit_in_the_head() {
    let (mut found, mut functions) = (Vec::new(), 0);
    for folder in ["ledger/src", "pg_ext/src", "ingester/src", "faults/src"] {
        for path in sources(&top().join(folder)) {
            let text = read(&path);
            let lines = text.lines().count();
            let long = long_functions(&text);
            functions += long.functions;
            found.extend(
                long.found
                    .iter()
                    .map(|one| format!("{}: {one}", path.display())),
            );
            if lines > FILE_LINES {
                found.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert!(
        functions > 500,
        "hardly any function is found: mend this test"
    );
    assert!(
        found.is_empty(),
        "longer than may be:\n{}",
        found.join("\n")
    );
}

#[test]
fn a_long_function_is_found() {
    let function =
        |lines: usize| format!("impl A {{ fn f() {{\n{}}} }}", "a();\n".repeat(lines - 2));
    assert!(long_functions(&function(FUNCTION_LINES)).found.is_empty());
    assert_eq!(long_functions(&function(FUNCTION_LINES + 1)).found.len(), 1);
    let of_tests = format!(
        "#[cfg(test)] mod tests {{ {} }}",
        function(FUNCTION_LINES + 1)
    );
    assert!(long_functions(&of_tests).found.is_empty());
}

/// The rooms that a table of ARCHITECTURE.md lists, in its order.
fn listed(section: &str) -> Vec<String> {
    let architecture = read(&top().join("ARCHITECTURE.md"));
    let (_, table) = architecture.split_once(section).expect("the rooms");
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    rows.filter_map(|row| row.strip_prefix("| `")?.split(" |").next())
        .flat_map(|rooms| rooms.split("`, `"))
        .map(|room| room.trim_end_matches(['`', '/']).replace(".rs", ""))
        .collect()
}

/// The modules that a `lib.rs` declares, in its order, but for the one that stands first for the sake of its macro.
fn declared(folder: &str, keyword: &str) -> Vec<String> {
    read(&top().join(folder).join("src/lib.rs"))
        .lines()
        .filter_map(|line| line.strip_prefix(keyword))
        .map(|name| name.trim_end_matches(';').to_owned())
        .filter(|name| name != "fault")
        .collect()
}

/// ARCHITECTURE.md and `lib.rs` list the rooms in the order in which they build on each other.
#[test]
fn a_room_names_only_rooms_that_are_listed_before_it() {
    for (folder, name, section, keyword) in [
        ("ingester", "sluice", "## Rooms of the ingester", "pub mod "),
        ("pg_ext", "sluice", "## Rooms of the extension", "mod "),
    ] {
        let listed = listed(section);
        assert_eq!(listed, declared(folder, keyword));
        let mut rooms = of_folders(&imports(folder, name));
        // Its macro is used everywhere, so it cannot stand behind what it names.
        rooms.remove("fault");
        for (room, named) in rooms {
            let at = |name: &String| listed.iter().position(|listed| listed == name);
            let named = named.iter().filter(|name| *name != "fault");
            let later: Vec<_> = named.filter(|name| at(name) > at(&room)).collect();
            assert!(later.is_empty(), "{folder}: {room} names {later:?}");
        }
    }
}

/// A mutant whose text is gone from the sources shows nothing any more. Those of SQL functions are found when they run.
#[test]
fn every_mutant_applies_to_its_file() {
    let list = read(&top().join("tests/mutants/list"));
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    let mutants = lines.filter_map(|line| {
        let mut parts = line.split(" ~ ").map(str::trim);
        Some((parts.next()?, parts.next()?, parts.next()?))
    });
    let mut seen = 0;
    for (name, file, edit) in mutants.filter(|(_, file, _)| !file.starts_with("sql:")) {
        let applied = std::process::Command::new("perl")
            .args(["-0ne", &format!("({edit}) or die qq(does not apply\\n)")])
            .arg(top().join(file))
            .output()
            .expect("perl");
        let said = String::from_utf8_lossy(&applied.stderr);
        assert!(applied.status.success(), "{name} and {file}: {said}");
        seen += 1;
    }
    assert!(seen > 50, "hardly any mutant is found: mend this test");
}
