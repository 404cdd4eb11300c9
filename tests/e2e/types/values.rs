//! What the matrix sends: types, and values of each at the edges of what it holds.

/// A column's type, and values of it as SQL. NULL is sent for every type besides.
pub(super) struct Case {
    /// As in `CREATE TABLE`.
    pub(super) type_name: &'static str,
    /// Expressions that give different values.
    pub(super) values: &'static [&'static str],
}

const fn case(type_name: &'static str, values: &'static [&'static str]) -> Case {
    Case { type_name, values }
}

/// Types of our own, for the cases below.
pub(super) const DEFINITIONS: &str = r#"
    CREATE EXTENSION citext;
    CREATE EXTENSION hstore;
    CREATE SCHEMA "Odd schema";
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "complicated", \no', 'größer');
    CREATE TYPE "Odd schema"."Größe" AS ENUM ('S', 'M');
    CREATE DOMAIN percent AS numeric(5,2) CHECK (VALUE BETWEEN 0 AND 100);
    CREATE DOMAIN word AS text NOT NULL CHECK (VALUE <> '');
    CREATE DOMAIN words AS text[];
    CREATE TYPE inner_pair AS (a int, b text);
    CREATE TYPE pair AS (x inner_pair, "Y z" numeric, m mood, raw bytea, list float8[]);
    CREATE TYPE float_range AS RANGE (subtype = float8, subtype_diff = float8mi);
"#;

/// Whole numbers, numbers with a fraction, money.
pub(super) const NUMBERS: &[Case] = &[
    case("smallint", &["-32768", "0", "32767"]),
    case("integer", &["-2147483648", "-1", "2147483647"]),
    case("bigint", &["'-9223372036854775808'", "0", "9223372036854775807"]),
    case(
        "numeric",
        &[
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "0",
            "0.000",
            "-0.10",
            "1.0",
            "1.00",
            "('1' || repeat('0', 131071))::numeric",
            "('-0.' || repeat('0', 16382) || '1')::numeric",
            "(repeat('9', 1000) || '.' || repeat('12', 500))::numeric",
        ],
    ),
    case("numeric(10,2)", &["'NaN'", "99999999.99", "-0.01"]),
    case("numeric(3,-5)", &["99900000", "-100000"]),
    case(
        "real",
        &["'NaN'", "'-0'", "'Infinity'", "'-Infinity'", "'1e-45'", "3.4028235e38", "0.1", "0"],
    ),
    case(
        "double precision",
        &[
            "'NaN'",
            "'-0'",
            "0",
            "'Infinity'",
            "'-Infinity'",
            "'5e-324'",
            "'2.2250738585072011e-308'",
            "1.7976931348623157e308",
            "0.1::float8 + 0.2",
            "9007199254740993",
        ],
    ),
    case(
        "money",
        &["'-92233720368547758.08'", "'92233720368547758.07'", "'-0.01'", "0", "1234.5::numeric"],
    ),
    case("boolean", &["true", "false"]),
    case("oid", &["0", "4294967295"]),
    case("xid", &["'0'", "'4294967295'"]),
    case("xid8", &["'18446744073709551615'", "'7'"]),
    case("cid", &["'1'", "'4294967295'"]),
    case("tid", &["'(0,0)'", "'(4294967295,65535)'"]),
    case("pg_lsn", &["'0/0'", "'FFFFFFFF/FFFFFFFF'", "'16/B374D848'"]),
    case("bit(3)", &["B'101'", "B'000'"]),
    case("bit", &["B'1'", "B'0'"]),
    case("varbit", &["B''", "B'1'", "repeat('10', 5000)::varbit"]),
    case("bit varying(4)", &["B'1010'", "B''"]),
];

/// Texts of every kind, and documents.
pub(super) const TEXTS: &[Case] = &[
    case(
        "text",
        &[
            "''",
            "'NULL'",
            r"E'\\N'",
            r#"E'tab\tnew\nline\rquote''" back\\slash'"#,
            "' leading and trailing '",
            "U&'\\+01F600 \\0301e\\200B\\FEFF'",
            "'{\"a\",NULL}'",
            "repeat('wide ünïcode ', 20000)",
        ],
    ),
    case("varchar(5)", &["'five!'", "'äöüßé'", "''"]),
    case("character(5)", &["'abc'", "'    x'", "''", "'äöüßé'"]),
    case("bpchar", &["'no length '", "''"]),
    case("name", &["'x'", "repeat('n', 63)::name", "''"]),
    case("citext", &["'MixedCase'", "'mixedcase'", "''"]),
    case(
        "hstore",
        &[
            "''",
            r#"'a=>NULL, "b c"=>"NULL", "quo\"te"=>"back\\slash"'"#,
            "hstore('k', repeat('v', 3000))",
        ],
    ),
    case(
        "bytea",
        &[r"'\x'", r"'\x00'", r"'\xdeadbeef00ff5c27'", "decode(repeat('00ff', 9999), 'hex')"],
    ),
    case(
        "uuid",
        &["'00000000-0000-0000-0000-000000000000'", "'FFFFFFFF-ffff-ffff-ffff-ffffffffffff'"],
    ),
    case(
        "json",
        &[
            "'null'",
            r#"'{"b": 1.0, "a" :2, "b":3e400}'"#,
            r#"'"\u00e4\ud83d\ude00\u0000"'"#,
            "'[ ]'",
            r#"E'{\n  "kept" : "as it is"\n}'"#,
        ],
    ),
    case(
        "jsonb",
        &[
            "'null'",
            r#"'{"b": 1.0, "a": 1.00, "nested": {"x": [1, null, {}, ""]}}'"#,
            "'123456789012345678901234567890.12345678901234567890'",
            "'1e1000'",
            r#"'"\u00e4\ud83d\ude00\\ \" \/"'"#,
            "to_jsonb(repeat('j', 9000))",
        ],
    ),
    case("jsonpath", &[r#"'$."a b"[*] ? (@.x > 1.50 && exists (@.y))'"#, "'strict $'", "'$'"]),
    case("xml", &["'text only'", "'<a b=\"1\">&lt;ü<!-- c --></a>'", "'<a/><b/>'", "''"]),
    case(
        "tsvector",
        &[
            "''",
            r"$$'it''s':1A,16383B 'back\\slash':2 'plain'$$",
            "to_tsvector('simple', 'the quick brown')",
        ],
    ),
    case("tsquery", &["''", r"$$'a''b':*A & !('c' <-> 'd' | 'e\\f' <3> 'g')$$"]),
    case("int2vector", &["'1 2 3'", "''"]),
    case("oidvector", &["'1 2 4294967295'", "''"]),
    case("refcursor", &["'a cursor'", "''"]),
    case("pg_snapshot", &["'10:20:10,14,15'", "'1:1:'"]),
    case("txid_snapshot", &["'10:20:10,14,15'"]),
];

/// Points in time and spans of it.
pub(super) const TIMES: &[Case] = &[
    case(
        "date",
        &[
            "'infinity'",
            "'-infinity'",
            "'4714-11-24 BC'",
            "'5874897-12-31'",
            "'0001-01-01'",
            "'2024-02-29'",
        ],
    ),
    case("time", &["'00:00'", "'24:00:00'", "'23:59:59.999999'"]),
    case("time(2)", &["'12:34:56.78'"]),
    case("timetz", &["'00:00+15:59:59'", "'24:00:00-15:59'", "'12:00:00.000001+05:45'"]),
    case(
        "timestamp",
        &[
            "'infinity'",
            "'-infinity'",
            "'4714-11-24 00:00:00 BC'",
            "'294276-12-31 23:59:59.999999'",
            "'0001-12-31 23:59:59 BC'",
            "'9999-12-31 23:59:59.999999'",
            "'10000-01-01'",
            "'1970-01-01'",
            "'2000-01-01 00:00:00.000001'",
        ],
    ),
    case(
        "timestamptz",
        &[
            "'infinity'",
            "'-infinity'",
            "'4714-11-24 00:00:00+00 BC'",
            "'294276-12-31 23:59:59.999999+00'",
            "'0044-03-15 12:00:00+00 BC'",
            "'1890-05-06 07:08:09 Europe/Amsterdam'",
            "'2024-03-31 02:30:00+02'",
        ],
    ),
    case("timestamptz(0)", &["'2024-03-31 02:30:00.5+02'"]),
    case(
        "interval",
        &[
            "'178000000 years'",
            "'-178000000 years'",
            "'-2147483648 months -2147483648 days -2562047788:00:54.775807'",
            "'1 day'",
            "'24 hours'",
            "'1 mon -1 day +00:00:00.000001'",
            "'-1 year 2 mons -3 days 04:05:06.7'",
            "'0'",
        ],
    ),
    case("interval day to second(3)", &["'1 day 00:00:00.123'"]),
    case("interval year to month", &["'-1 year -2 mons'"]),
];

/// Networks and shapes.
pub(super) const PLACES: &[Case] = &[
    case(
        "inet",
        &["'10.0.0.1'", "'10.0.0.1/8'", "'::ffff:1.2.3.4'", "'fe80::1/64'", "'0.0.0.0/0'"],
    ),
    case("cidr", &["'10.0.0.0/8'", "'::/0'", "'2001:db8::/32'"]),
    case("macaddr", &["'08:00:2b:01:02:03'"]),
    case("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    case("point", &["'(NaN,Infinity)'", "'(-0,5e-324)'", "point(0.1::float8 + 0.2, 1e300)"]),
    case("line", &["'{1,-0.5,3}'", "'{0,1,1e-300}'"]),
    case("lseg", &["'[(0,0),(1,0.1)]'"]),
    case("box", &["'(1,1),(0,0)'", "'(Infinity,1),(-Infinity,0)'"]),
    case("path", &["'[(0,0),(1,1),(2,0)]'", "'((0,0),(1,1),(2,0))'"]),
    case("polygon", &["'((0,0),(1,1),(2,0.30000000000000004))'"]),
    case("circle", &["'<(0,0),1e-5>'", "'<(1,1),0>'"]),
];

/// Types made of others.
pub(super) const COMPOUNDS: &[Case] = &[
    case("int4range", &["'empty'", "'[1,5)'", "'(,)'", "'[,7]'"]),
    case("int8range", &["'[-9223372036854775808,9223372036854775807)'"]),
    case("numrange", &["'[1.0,1.00]'", "'(NaN,)'", "'(-Infinity,0.5]'"]),
    case("tsrange", &["'[\"2024-01-01 BC\",infinity)'", "'[-infinity,infinity]'"]),
    case("tstzrange", &["'[\"0044-03-15 12:00:00+00 BC\",\"294276-01-01 00:00:00+00\"]'"]),
    case("daterange", &["'[infinity,)'", "'[2024-01-01,2024-01-02]'"]),
    case("float_range", &["'[-0,5e-324)'", "'(0.1,0.30000000000000004)'"]),
    case("int4multirange", &["'{}'", "'{[1,2],[5,9)}'"]),
    case("nummultirange", &["'{[1.50,2],(3.0,)}'"]),
    case("tstzmultirange", &["'{[2024-01-01 00:00:00+00,infinity)}'"]),
    case("float_multirange", &["'{[0,0.1),[1,2]}'"]),
    case(
        "integer[]",
        &["'{}'", "'{1,NULL,-3}'", "'[-2:0]={1,2,3}'", "'{{1,2},{3,4}}'", "'[2:2][3:4]={{1,2}}'"],
    ),
    case(
        "text[]",
        &[r#"ARRAY['', NULL, 'NULL', 'a,b', '{', E'q"u\\o''te', 'ü ']"#, "'{{\"\"},{x}}'"],
    ),
    case("double precision[]", &["'{NaN,-0,5e-324,Infinity}'"]),
    case("numeric[]", &["'{NaN,1.0,1.00,-Infinity}'"]),
    case("timestamptz[]", &["'{infinity,\"0044-03-15 12:00:00+00 BC\"}'"]),
    case("bytea[]", &[r#"ARRAY['\x00'::bytea, '\x', NULL]"#]),
    case("jsonb[]", &[r#"ARRAY['{"a": [1, "x\"y"]}', 'null', NULL]::jsonb[]"#]),
    case("uuid[]", &["'{00000000-0000-0000-0000-000000000000}'"]),
    case("character(3)[]", &["'{a,\"b  \",NULL}'"]),
    case("money[]", &["'{1.23,-4.56}'"]),
    case("mood", &["'sad'", "'ok'", "'it''s \"complicated\", \\no'", "'größer'"]),
    case("mood[]", &["ARRAY['sad', NULL, 'it''s \"complicated\", \\no']::mood[]"]),
    case("\"Odd schema\".\"Größe\"", &["'S'", "'M'"]),
    case("percent", &["0", "99.99", "100"]),
    case("percent[]", &["'{1,2.5}'"]),
    case("words", &["'{a,b}'", "'{}'"]),
    case(
        "pair",
        &[
            r#"ROW(ROW(1, 'a "quoted", (text)\ '), 'NaN', 'sad', '\x00', '{NaN,NULL}')::pair"#,
            "ROW(NULL, NULL, NULL, NULL, NULL)::pair",
            "ROW(ROW(NULL, ''), 1.50, 'it''s \"complicated\", \\no', '', '{}')::pair",
        ],
    ),
    case("pair[]", &[r#"ARRAY[ROW(ROW(1, '"'), 1, 'ok', '\xff', '{1}')::pair, NULL]"#]),
    case("inner_pair", &["ROW(1, '')::inner_pair", "ROW(NULL, 'NULL')::inner_pair"]),
    case("hstore[]", &[r#"ARRAY['a=>"b,c"'::hstore]"#]),
];

/// Keys: each type with values that become the keys of rows.
pub(super) const KEYS: &[Case] = &[
    case("text", &["''", "'a''b\\c'", "'ünïcode '", "repeat('k', 500)"]),
    case("varchar(9)", &["'x'", "'äöü'"]),
    case("character(4)", &["'a'", "'abcd'", "''"]),
    case("name", &["'x'", "repeat('n', 63)::name"]),
    case("smallint", &["-1", "32767"]),
    case("bigint", &["'-9223372036854775808'", "9223372036854775807"]),
    case("boolean", &["true", "false"]),
    case("oid", &["1", "4294967295"]),
    case(
        "uuid",
        &["'00000000-0000-0000-0000-000000000000'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
    ),
    case("numeric(20,3)", &["1", "-12345678901234567.891", "'NaN'"]),
    case(
        "timestamptz",
        &["'infinity'", "'0044-03-15 12:00:00+00 BC'", "'2024-03-31 02:30:00.5+02'"],
    ),
    case("timestamp", &["'2024-03-31 02:30:00'", "'294276-12-31 23:59:59.999999'"]),
    case("date", &["'-infinity'", "'4714-11-24 BC'", "'2024-02-29'"]),
    case("time", &["'24:00'", "'12:34:56.789'"]),
    case("timetz", &["'12:00+01'", "'11:00+00'"]),
    case("bytea", &[r"'\x'", r"'\x00ff'"]),
    case("mood", &["'sad'", "'it''s \"complicated\", \\no'"]),
    case("word", &["'one'", "'zwölf'"]),
    case("inet", &["'10.0.0.1'", "'10.0.0.1/8'", "'::1'"]),
    case("cidr", &["'10.0.0.0/8'"]),
    case("macaddr", &["'08:00:2b:01:02:03'"]),
    case("bit(4)", &["B'1010'", "B'0000'"]),
    case("varbit", &["B''", "B'10'"]),
    case("money", &["-1.23", "0"]),
    case("pg_lsn", &["'0/1'", "'FFFFFFFF/FFFFFFFF'"]),
    case("xid8", &["'18446744073709551615'"]),
    case("uuid[]", &["'{}'", "'{00000000-0000-0000-0000-000000000000,NULL}'"]),
    case("inner_pair", &["ROW(1, 'a,\"b')::inner_pair", "ROW(2, '')::inner_pair"]),
    case("int4range", &["'[1,5)'", "'empty'"]),
];
