//! One-dimensional PostgreSQL arrays, as text.

/// An element; `None` is NULL.
pub(super) type Element = Option<Box<str>>;

/// The elements of an array's canonical text; `None` for arrays of more than one dimension and for
/// those that do not begin at 1.
pub(super) fn parse(text: &str) -> Option<Vec<Element>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    if inner.is_empty() {
        return Some(Vec::new());
    }
    let mut elements = Vec::new();
    let mut rest = inner;
    loop {
        let (element, behind) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => plain(rest)?,
        };
        elements.push(element);
        match behind.strip_prefix(',') {
            Some(more) => rest = more,
            None => return behind.is_empty().then_some(elements),
        }
    }
}

fn plain(text: &str) -> Option<(Element, &str)> {
    let end = text.find(',').unwrap_or(text.len());
    let (element, behind) = text.split_at(end);
    let is_plain = !element.is_empty() && !element.contains(['{', '}', '"', '\\']);
    let element = (!element.eq_ignore_ascii_case("null")).then(|| element.into());
    is_plain.then_some((element, behind))
}

fn unquote(text: &str) -> Option<(Element, &str)> {
    let mut element = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Some(element.into()), &text[at + 1..])),
            '\\' => element.push(chars.next()?.1),
            c => element.push(c),
        }
    }
    None
}

/// The array's text, as PostgreSQL prints it.
pub(super) fn print<'e>(elements: impl Iterator<Item = &'e Element>) -> String {
    let mut text = String::from("{");
    for (place, element) in elements.enumerate() {
        text.push_str(if place == 0 { "" } else { "," });
        match element {
            None => text.push_str("NULL"),
            Some(element) if needs_quotes(element) => {
                text.push('"');
                for c in element.chars() {
                    text.push_str(if matches!(c, '"' | '\\') { "\\" } else { "" });
                    text.push(c);
                }
                text.push('"');
            }
            Some(element) => text.push_str(element),
        }
    }
    text.push('}');
    text
}

fn needs_quotes(element: &str) -> bool {
    let special = ['"', '\\', '{', '}', ',', ' ', '\t', '\n', '\r', '\u{b}', '\u{c}'];
    element.is_empty() || element.eq_ignore_ascii_case("null") || element.contains(special)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn arrays_read_as_postgres_prints_them() {
        let check = |text: &str, due: &[Option<&str>]| {
            let found = parse(text).unwrap();
            let shown: Vec<Option<&str>> = found.iter().map(Option::as_deref).collect();
            assert_eq!(shown, due, "{text}");
            assert_eq!(print(found.iter()), text);
        };
        check("{}", &[]);
        check("{a,NULL,\"NULL\",\"\"}", &[Some("a"), None, Some("NULL"), Some("")]);
        check("{\"a,b\",\"say \\\"x\\\\\"}", &[Some("a,b"), Some("say \"x\\")]);
        for other in ["{{1,2}}", "[0:1]={1,2}", "{a", "", "{a,}", "{\"a}", "{\"a\"b}", "{,}"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn elements_read_back(
            elements in proptest::collection::vec(proptest::option::of("[a-c,\"\\\\ {}NULnul]{0,5}"), 0..6),
        ) {
            let elements: Vec<Element> = elements.into_iter().map(|e| e.map(Into::into)).collect();
            prop_assert_eq!(parse(&print(elements.iter())), Some(elements));
        }
    }
}
