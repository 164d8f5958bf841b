//! rsync's `--exclude` patterns.
//!
//! A wildcard pattern becomes a few tokens, run as a nondeterministic automaton: all ways to match advance together,
//! byte by byte of the name, so the work is at most name times pattern whatever the pattern is.

/// The longest pattern in bytes; rsync's own bound.
pub const PATTERN_MAX: usize = 4096;

/// Why a list of patterns was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// `!` clears a list of rules; there is none to clear.
    Clear,
    /// A prefix without a pattern behind it.
    Empty,
    /// Longer than `PATTERN_MAX`.
    TooLong,
    /// A NUL, which no name holds.
    Nul,
}

impl FilterError {
    /// The error in a person's words.
    pub fn message(self) -> &'static str {
        match self {
            FilterError::Clear => "an exclude pattern cannot be \"!\"",
            FilterError::Empty => "an exclude pattern is empty",
            FilterError::TooLong => "an exclude pattern is longer than 4096 bytes",
            FilterError::Nul => "an exclude pattern holds a NUL",
        }
    }
}

/// A list of rules; the first that matches a name decides.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    rules: Vec<Rule>,
}

impl Filter {
    /// Patterns as rsync's `--exclude` takes them, "+ " and "- " in front included.  Empty ones are passed over.
    pub fn new(patterns: &[Vec<u8>]) -> Result<Filter, FilterError> {
        let rules = patterns
            .iter()
            .filter(|pattern| !pattern.is_empty())
            .map(|pattern| Rule::new(pattern));
        Ok(Filter {
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// There is no rule: nothing is excluded.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether `path`, relative to the root of the transfer and without a leading slash, is left out.
    ///
    /// What lies below an excluded directory is left out because nobody looks there; this looks at `path` alone.
    pub fn excludes(&self, path: &[u8], is_dir: bool) -> bool {
        if path.is_empty() {
            return false;
        }
        self.rules
            .iter()
            .find(|rule| rule.matches(path, is_dir))
            .is_some_and(|rule| !rule.include)
    }
}

#[derive(Clone, Debug)]
struct Rule {
    include: bool,
    directories_only: bool,
    /// How many of the path's last components are looked at; 0 for the whole path.
    components: usize,
    /// A slash is put before the path, so that `**/` matches at its start too.
    slash_before: bool,
    /// A slash is put after a directory's path, so that `NAME/***` matches NAME too.
    slash_after: bool,
    /// May match from any component on.
    anywhere: bool,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Literal(Vec<u8>),
    Wild(Vec<Token>),
}

#[derive(Clone, Debug)]
enum Token {
    Byte(u8),
    /// `?`
    Any,
    /// `[...]`: the bytes in it, never a slash.
    Class(Box<[bool; 256]>),
    /// `*`
    Star,
    /// `**`
    StarStar,
    /// Matches nothing: a class without an end.
    Never,
}

impl Rule {
    fn new(pattern: &[u8]) -> Result<Rule, FilterError> {
        let (include, mut pattern) = match pattern {
            [b'+', b' ', rest @ ..] => (true, rest),
            [b'-', b' ', rest @ ..] => (false, rest),
            b"!" => return Err(FilterError::Clear),
            _ => (false, pattern),
        };
        if pattern.is_empty() {
            return Err(FilterError::Empty);
        }
        if pattern.len() > PATTERN_MAX {
            return Err(FilterError::TooLong);
        }
        if pattern.contains(&0) {
            return Err(FilterError::Nul);
        }
        let directories_only = pattern.len() > 1 && pattern.ends_with(b"/");
        if directories_only {
            pattern = &pattern[..pattern.len() - 1];
        }
        // These look at the bytes, not at what they mean: an escaped star is one here, as for rsync.
        let slashes = pattern.iter().filter(|&&byte| byte == b'/').count();
        let wild = pattern.iter().any(|byte| b"*[?".contains(byte));
        let double = pattern.windows(2).any(|pair| pair == b"**");
        let (anchored, body) = match pattern {
            [b'/', rest @ ..] => (true, rest),
            _ => (false, pattern),
        };
        let slash_before = !anchored && body.starts_with(b"**");
        Ok(Rule {
            include,
            directories_only,
            components: if anchored || double { 0 } else { slashes + 1 },
            slash_before,
            slash_after: pattern.ends_with(b"***"),
            anywhere: double && !anchored && !slash_before,
            what: if wild {
                What::Wild(tokens(body))
            } else {
                What::Literal(body.to_vec())
            },
        })
    }

    fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        if self.directories_only && !is_dir {
            return false;
        }
        let Some(path) = tail(path, self.components) else {
            return false;
        };
        match &self.what {
            What::Literal(literal) => path == literal,
            What::Wild(tokens) => {
                let before: &[u8] = if self.slash_before { b"/" } else { b"" };
                let after: &[u8] = if self.slash_after && is_dir { b"/" } else { b"" };
                run(tokens, &[before, path, after], self.anywhere).0
            }
        }
    }
}

/// The last `components` components of `path`, all for 0; None when there are fewer.
fn tail(path: &[u8], components: usize) -> Option<&[u8]> {
    if components == 0 {
        return Some(path);
    }
    let slashes = path
        .iter()
        .enumerate()
        .rev()
        .filter(|&(_, &byte)| byte == b'/')
        .map(|(at, _)| at);
    let mut left = components;
    for at in slashes {
        left -= 1;
        if left == 0 {
            return Some(&path[at + 1..]);
        }
    }
    (left == 1).then_some(path)
}

fn tokens(pattern: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut at = 0;
    while let Some(&byte) = pattern.get(at) {
        at += 1;
        tokens.push(match byte {
            b'?' => Token::Any,
            b'*' => {
                let more = pattern[at..].iter().take_while(|&&byte| byte == b'*').count();
                at += more;
                if more == 0 { Token::Star } else { Token::StarStar }
            }
            b'\\' => {
                at += 1;
                pattern.get(at - 1).map_or(Token::Never, |&byte| Token::Byte(byte))
            }
            b'[' => match class(&pattern[at..]) {
                Some((members, length)) => {
                    at += length;
                    Token::Class(members)
                }
                None => {
                    at = pattern.len();
                    Token::Never
                }
            },
            _ => Token::Byte(byte),
        });
    }
    tokens
}

/// The members of the class whose text begins after its `[`, and how long that text is with its `]`.
fn class(text: &[u8]) -> Option<(Box<[bool; 256]>, usize)> {
    let mut members = Box::new([false; 256]);
    let negated = matches!(text.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    // The byte before, when it can begin a range.
    let mut from: Option<u8> = None;
    loop {
        let byte = *text.get(at)?;
        at += 1;
        let next = text.get(at).copied();
        match byte {
            b'\\' => {
                at += 1;
                members[usize::from(next?)] = true;
                from = next;
            }
            b'-' if from.is_some() && next.is_some_and(|next| next != b']') => {
                at += 1;
                let to = if next == Some(b'\\') {
                    at += 1;
                    *text.get(at - 1)?
                } else {
                    next?
                };
                for member in from.take()?..=to {
                    members[usize::from(member)] = true;
                }
            }
            b'[' if next == Some(b':') => {
                let length = text[at + 1..].iter().position(|&byte| byte == b']')?;
                match text[at + 1..at + 1 + length].strip_suffix(b":") {
                    Some(name) => {
                        let named = named_class(name)?;
                        (0..=u8::MAX)
                            .filter(named)
                            .for_each(|byte| members[usize::from(byte)] = true);
                        at += length + 2;
                        from = None;
                    }
                    None => {
                        members[usize::from(b'[')] = true;
                        from = Some(b'[');
                    }
                }
            }
            _ => {
                members[usize::from(byte)] = true;
                from = Some(byte);
            }
        }
        if text.get(at) == Some(&b']') {
            break;
        }
    }
    if negated {
        members.iter_mut().for_each(|member| *member = !*member);
    }
    members[usize::from(b'/')] = false;
    Some((members, at + 1))
}

fn named_class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

/// Sets of positions in a pattern of up to 255 tokens live on the stack.
const STACK_WORDS: usize = 4;

/// Whether the tokens match the whole text (its parts one after the other), or with `anywhere` a tail of it that begins
/// after a slash; and how many tokens were looked at.
fn run(tokens: &[Token], text: &[&[u8]; 3], anywhere: bool) -> (bool, u64) {
    let words = tokens.len() / 64 + 1;
    let mut stack = [0u64; 2 * STACK_WORDS];
    let mut heap;
    let sets = if words <= STACK_WORDS {
        &mut stack[..2 * words]
    } else {
        heap = vec![0u64; 2 * words];
        &mut heap[..]
    };
    let (mut now, mut next) = sets.split_at_mut(words);
    let mut looked = 0;
    reach(tokens, now, 0);
    for &byte in text.iter().copied().flatten() {
        let mut alive = false;
        for (word, &bits) in now.iter().enumerate() {
            let mut bits = bits;
            while bits != 0 {
                let at = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                looked += 1;
                let (advances, stays) = match tokens.get(at) {
                    Some(Token::Byte(expected)) => (byte == *expected, false),
                    Some(Token::Any) => (byte != b'/', false),
                    Some(Token::Class(members)) => (members[usize::from(byte)], false),
                    Some(Token::Star) => (false, byte != b'/'),
                    Some(Token::StarStar) => (false, true),
                    Some(Token::Never) | None => (false, false),
                };
                if advances {
                    reach(tokens, next, at + 1);
                } else if stays {
                    reach(tokens, next, at);
                }
                alive |= advances || stays;
            }
        }
        if anywhere && byte == b'/' {
            reach(tokens, next, 0);
        } else if !alive && !anywhere {
            return (false, looked);
        }
        std::mem::swap(&mut now, &mut next);
        next.fill(0);
    }
    (now[tokens.len() / 64] >> (tokens.len() % 64) & 1 == 1, looked)
}

/// Adds a position, and the one after it when the token there may match nothing.
fn reach(tokens: &[Token], set: &mut [u64], at: usize) {
    set[at / 64] |= 1 << (at % 64);
    if matches!(tokens.get(at), Some(Token::Star | Token::StarStar)) {
        let after = at + 1;
        set[after / 64] |= 1 << (after % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excludes(pattern: &str, path: &str, is_dir: bool) -> bool {
        Filter::new(&[pattern.into()])
            .map(|filter| filter.excludes(path.as_bytes(), is_dir))
            .unwrap_or_default()
    }

    #[test]
    fn patterns_match_as_rsync_says() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("foo", &["foo", "a/foo", "foo/"], &["foox", "afoo", "foo/a"]),
            ("foo/", &["foo/", "a/foo/"], &["foo"]),
            ("/foo", &["foo", "foo/"], &["a/foo"]),
            ("a/foo", &["a/foo", "b/a/foo"], &["foo", "ba/foo"]),
            ("*.o", &["x.o", "a/x.o", ".o"], &["x.oo", "x.o/y"]),
            ("a*/b", &["a/b", "axx/b", "c/ax/b"], &["a/x/b", "b"]),
            ("/a*/b", &["ax/b"], &["c/ax/b"]),
            ("a**b", &["ab", "a/x/b", "c/axb"], &["a/x", "ca/b"]),
            ("**/foo", &["foo", "a/foo", "a/b/foo"], &["afoo"]),
            ("**foo", &["foo", "afoo", "a/xfoo"], &["foo/a"]),
            ("foo/**", &["foo/a", "b/foo/a/c"], &["foo", "foo/"]),
            ("foo/***", &["foo/", "foo/a", "x/foo/a/b"], &["foo"]),
            ("?", &["a", "b/a"], &["ab"]),
            ("[a-c]", &["b"], &["d", "-"]),
            ("[!a-c]", &["d", "-"], &["b"]),
            ("[^a-c]x", &["dx"], &["bx"]),
            ("[]-]", &["]", "-"], &["a"]),
            ("[a-]", &["-", "a"], &["b"]),
            ("[[:alpha:]1-2]", &["q", "2"], &["3"]),
            ("[[:nope:]]", &[], &["n", ":"]),
            ("[a", &[], &["a", "[a"]),
            ("\\*x*", &["*xy"], &["axy", "\\*x"]),
            ("a\\b", &["a\\b"], &["ab"]),
            ("!a", &["!a"], &["a"]),
            ("/", &[], &["a", "a/"]),
        ];
        for (pattern, yes, no) in cases {
            for (expected, paths) in [(true, yes), (false, no)] {
                for path in *paths {
                    let name = path.trim_end_matches('/');
                    assert_eq!(excludes(pattern, name, name != *path), expected, "{pattern} on {path}");
                }
            }
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let filter = Filter::new(&[b"+ keep.o".into(), b"- *.o".into(), b"".into()]);
        let filter = filter.unwrap_or_default();
        assert!(!filter.is_empty() && Filter::default().is_empty());
        assert!(filter.excludes(b"a/x.o", false));
        assert!(!filter.excludes(b"a/keep.o", false));
        assert!(!filter.excludes(b"", true));
    }

    #[test]
    fn what_cannot_be_a_rule_is_refused() {
        let refused = |pattern: &[u8]| Filter::new(&[pattern.into()]).err();
        assert_eq!(refused(b"!"), Some(FilterError::Clear));
        assert_eq!(refused(b"+ "), Some(FilterError::Empty));
        assert_eq!(refused(b"a\0"), Some(FilterError::Nul));
        assert_eq!(refused(&[b'a'; PATTERN_MAX + 1]), Some(FilterError::TooLong));
        assert_eq!(refused(&[b'a'; PATTERN_MAX]), None);
    }

    #[test]
    fn work_is_bounded_by_name_times_pattern() {
        let name = vec![b'a'; 4096];
        for pattern in [
            "*a".repeat(1000) + "b",
            "**a?".repeat(800) + "b",
            "a*/**".repeat(600),
            "[a]*".repeat(900),
        ] {
            let tokens = tokens(pattern.as_bytes());
            for anywhere in [false, true] {
                let (_, looked) = run(&tokens, &[b"/", &name, b"/"], anywhere);
                assert!(looked <= (tokens.len() as u64 + 1) * 4098, "{looked}");
            }
        }
    }
}
