//! Just enough of Rust's syntax for the checks: code with comments and literals blanked out.

/// A function found in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Where `fn` stands, counted from 1.
    pub(crate) line: usize,
    /// From there to the closing brace.
    pub(crate) lines: usize,
    /// Comments and attributes right above it.
    pub(crate) comment: String,
}

pub(crate) struct Source {
    text: String,
    /// The text with comments, strings and characters replaced by spaces; same bytes per line.
    code: String,
}

impl Source {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), code: blank(text) }
    }

    /// Everything before the first `#[cfg(test)]`: tests stand last in a file.
    pub(crate) fn code_without_tests(&self) -> &str {
        self.code.split_once("#[cfg(test)]").map_or(&self.code, |(code, _)| code)
    }

    /// Uses of the macros `names`, as (line, name).
    pub(crate) fn macros<'a>(&self, names: &[&'a str]) -> Vec<(usize, &'a str)> {
        let mut found = Vec::new();
        for name in names {
            for (at, _) in self.code.match_indices(&format!("{name}!")) {
                let inside_word = self.code[..at].ends_with(is_word);
                if !inside_word && !self.code[at + name.len()..].starts_with("!=") {
                    found.push((line_of(&self.code, at), *name));
                }
            }
        }
        found
    }

    /// All functions with a body.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            if self.code[..at].ends_with(is_word) {
                continue;
            }
            let rest = &self.code[at + 3..];
            let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
            let Some(length) = body_end(rest).filter(|_| !name.is_empty()) else { continue };
            let line = line_of(&self.code, at);
            let lines = rest[..length].matches('\n').count() + 1;
            found.push(Function { name, line, lines, comment: self.above(line) });
        }
        found
    }

    fn above(&self, line: usize) -> String {
        let before: Vec<&str> = self.text.lines().take(line - 1).collect();
        let comment = before.iter().rev().take_while(|line| {
            let line = line.trim_start();
            line.starts_with("//") || line.starts_with("#[")
        });
        comment.copied().collect::<Vec<_>>().join("\n")
    }
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Where the body after a signature ends; `None` for a declaration or a pointer type.
fn body_end(rest: &str) -> Option<usize> {
    let (mut nested, mut braces) = (0_usize, 0_usize);
    for (at, c) in rest.char_indices() {
        match c {
            '(' | '[' => nested += 1,
            // A closing bracket of something that was open before us.
            ')' | ']' if nested == 0 && braces == 0 => return None,
            ')' | ']' => nested = nested.saturating_sub(1),
            ';' if nested == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 && nested == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Replaces comments and literals by spaces and keeps line breaks.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after_word = code.ends_with(is_word);
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !after_word) {
            length
        } else if c == '"' {
            quoted(rest, '"')
        } else if c == '\'' {
            character(rest)
        } else {
            0
        };
        if length == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0_usize);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, `br"…"` and so on.
fn raw_string(rest: &str) -> Option<usize> {
    let start = rest.trim_start_matches(['b', 'c']);
    let after_r = start.strip_prefix('r').filter(|_| rest.len() - start.len() <= 1)?;
    let inside = after_r.trim_start_matches('#');
    let hashes = after_r.len() - inside.len();
    let body = inside.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let opened = rest.len() - body.len();
    Some(opened + body.find(&end)? + end.len())
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal, 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => quoted(rest, '\''),
        (Some(c), Some('\'')) => c.len_utf8() + 2,
        _ => 0,
    }
}

#[test]
fn comments_and_literals_are_no_code() {
    let text =
        "let a = \"todo!() \\\" }\"; // dbg!(1)\nlet c = '{'; /* { /* { */ */ f::<'a>(r#\"}\"{\"#)";
    let code = blank(text);
    assert_eq!(
        code.split_whitespace().collect::<Vec<_>>().join(" "),
        "let a = ; let c = ; f::<'a>( )"
    );
    assert_eq!(code.lines().count(), 2);
    assert_eq!(Source::new("x.todo!(); // todo!()\nmytodo!()").macros(&["todo"]), [(1, "todo")]);
}

#[test]
fn functions_are_measured_from_signature_to_brace() {
    let text = "trait T { fn declared(&self); }\n/// Docs.\n// long because it is\n#[inline]\npub fn \
        a(x: [u8; 3])\n{\n    if x { let f: fn (u8); }\n}\n";
    let found = Source::new(text).functions();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].name.as_str(), found[0].line, found[0].lines), ("a", 5, 4));
    assert!(found[0].comment.contains("// long because it is"));
}
