// The template language: what jinja2 makes of snippets, malformed templates with their messages, limits.
// Whole templates of families are in chat_template_test.cc.
#include "formats/template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"

namespace planish {
namespace {

constexpr TemplateTime kTime = {.year = 2024, .month = 2, .day = 29, .hour = 13, .minute = 4, .second = 5};

Result<std::string> Render(std::string_view source, const OrderedJson& variables = OrderedJson::object(),
                           const TemplateLimits& limits = {}) {
  PLANISH_TRY(const Template parsed, Template::Parse(source));
  return parsed.Render({.variables = variables, .now = kTime, .limits = limits});
}

// Snippets with what the Python package jinja2 3.1.6 makes of them (tests/render_jinja.py --update). Where
// this program refuses what that renders, "refused" holds the message.
TEST(Template, AgreesWithRecordedJinja) {
  const auto text = ReadTextFile(std::string(PLANISH_SOURCE_DIR) + "/tests/template_snippets.json");
  ASSERT_TRUE(text.ok()) << text.error().message;
  const OrderedJson snippets = OrderedJson::parse(*text);
  ASSERT_GT(snippets.size(), 500u);
  for (const OrderedJson& snippet : snippets) {
    const auto source = snippet["template"].get<std::string>();
    SCOPED_TRACE(source);
    const auto rendered = Render(source, snippet["variables"]);
    const OrderedJson& expected = snippet["expected"];
    const std::string outcome = rendered.ok() ? "text: " + *rendered : rendered.error().message;
    if (snippet.contains("refused")) {
      EXPECT_EQ(outcome, snippet["refused"].get<std::string>());
    } else if (expected.contains("error")) {
      EXPECT_FALSE(rendered.ok()) << outcome;
    } else {
      EXPECT_EQ(outcome, "text: " + expected["text"].get<std::string>());
    }
  }
}

// Every value with every filter and test, and with every other under every operator.
OrderedJson Combinations() {
  constexpr const char* kValues[] = {"n", "neg", "f", "b",       "z",  "s", "u",
                                     "l", "t",   "d", "nothing", "el", "ms"};
  constexpr const char* kOperators[] = {"+",  "-",  "*", "/",  "//", "%",      "**",  "~",
                                        "==", "!=", "<", ">=", "in", "not in", "and", "or"};
  constexpr const char* kFilters[] = {"abs",
                                      "capitalize",
                                      "count",
                                      "default('x')",
                                      "default('x', true)",
                                      "dictsort",
                                      "first",
                                      "float",
                                      "indent",
                                      "int",
                                      "items | list",
                                      "join('-')",
                                      "last",
                                      "length",
                                      "list",
                                      "lower",
                                      "map('string') | list",
                                      "max",
                                      "min",
                                      "reject('none') | list",
                                      "replace('o', '0')",
                                      "reverse | list",
                                      "round",
                                      "select | list",
                                      "sort",
                                      "string",
                                      "sum",
                                      "title",
                                      "tojson",
                                      "tojson(indent=2)",
                                      "trim",
                                      "unique | list",
                                      "upper",
                                      "wordcount",
                                      "batch(2) | list",
                                      "escape",
                                      "map(attribute='role') | list",
                                      "selectattr('role') | list",
                                      "sort(reverse=true)"};
  constexpr const char* kTests[] = {"boolean",       "callable", "defined", "even",      "false",  "float",
                                    "integer",       "iterable", "mapping", "none",      "number", "odd",
                                    "sequence",      "string",   "true",    "undefined", "in l",   "in s",
                                    "divisibleby 2", "eq 7",     "lt 3"};
  constexpr const char* kSubscripts[] = {"[0]",  "[-1]",     "[9]",   "[1:]", "[::-1]",
                                         "[:2]", "['role']", ".role", ".a"};
  const OrderedJson variables = {{"n", 7},
                                 {"neg", -3},
                                 {"f", 2.5},
                                 {"b", true},
                                 {"z", nullptr},
                                 {"s", "Hello 'World' foo"},
                                 {"u", "Gr\u00fc\u00dfe, \u65e5\u672c \U0001F642\n\tx"},
                                 {"l", {3, 1, 2}},
                                 {"t", {"b", "A", "c"}},
                                 {"d", {{"b", 2}, {"a", 1}}},
                                 {"el", OrderedJson::array()},
                                 {"ms", {{{"role", "user"}, {"x", 1}}, {{"role", "bot"}, {"x", 2}}}}};
  OrderedJson entries = OrderedJson::array();
  const auto add = [&](const std::string& expression) {
    entries.push_back({{"template", "{{ " + expression + " }}"}, {"variables", variables}});
  };
  for (const std::string value : kValues) {
    for (const std::string filter : kFilters) add(value + " | " + filter);
    for (const std::string test : kTests) add(value + " is " + test);
    for (const std::string subscript : kSubscripts) add(value + subscript);
    for (const std::string other : kValues) {
      for (const std::string op : kOperators) add(value + " " + op + " " + other);
    }
  }
  return entries;
}

// An interpreter with jinja2: the one at hand, or one of an environment made in `folder`. Empty: neither
// works.
std::string PythonWithJinja(const std::string& folder) {
  if (std::system("python3 -c 'import jinja2' > /dev/null 2>&1") == 0) return "python3";
  const std::string venv = folder + "/venv";
  const std::string make = "python3 -m venv " + venv + " > /dev/null 2>&1 && " + venv +
                           "/bin/pip install -q jinja2 > /dev/null 2>&1";
  return std::system(make.c_str()) == 0 ? venv + "/bin/python" : "";
}

TEST(TemplateSlow, AgreesWithJinja) {
  std::string folder = testing::TempDir() + "planish_jinja_XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string python = PythonWithJinja(folder);
  if (python.empty()) {
    std::filesystem::remove_all(folder);
    GTEST_SKIP() << "no Python with jinja2, and none could be installed";
  }
  const auto recorded = ReadTextFile(std::string(PLANISH_SOURCE_DIR) + "/tests/template_snippets.json");
  ASSERT_TRUE(recorded.ok());
  OrderedJson entries = OrderedJson::parse(*recorded);
  for (OrderedJson& entry : Combinations()) entries.push_back(std::move(entry));
  ASSERT_TRUE(WriteFileAtomically(folder + "/snippets.json", DumpJson(entries)).ok());
  const std::string command = python + " " + PLANISH_SOURCE_DIR + "/tests/render_jinja.py " + folder +
                              "/snippets.json > " + folder + "/results.json";
  ASSERT_EQ(std::system(command.c_str()), 0);
  const auto text = ReadTextFile(folder + "/results.json");
  std::filesystem::remove_all(folder);
  ASSERT_TRUE(text.ok());
  const OrderedJson results = OrderedJson::parse(*text);
  ASSERT_EQ(results.size(), entries.size());
  int refused = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto source = entries[i]["template"].get<std::string>();
    const auto rendered = Render(source, entries[i]["variables"]);
    if (!results[i].contains("text")) {
      EXPECT_FALSE(rendered.ok()) << source << " gives " << *rendered << ", there: " << results[i]["error"];
    } else if (rendered.ok()) {
      EXPECT_EQ(*rendered, results[i]["text"].get<std::string>()) << source;
    } else {
      ++refused;
      std::printf("refused: %s: %s\n", source.c_str(), rendered.error().message.c_str());
    }
  }
  std::printf("%zu snippets, %d of them refused\n", entries.size(), refused);
  EXPECT_LT(refused, 40);
}

// Malformed templates, and operations that fail, with the whole message.
TEST(Template, MessagesNameLineFoundAndExpected) {
  const struct {
    const char* source;
    const char* message;
  } cases[] = {
      {"a\n{% if x %}\nb",
       "line 3: expected 'elif' or 'else' or 'endif' of the 'if' in line 2, found the end of "
       "the template"},
      {"{% if x %}\n{% endfor %}",
       "line 2: expected 'elif' or 'else' or 'endif' of the 'if' in line 1, found 'endfor'"},
      {"{% endif %}", "line 1: found 'endif', which closes nothing"},
      {"{{ a", "line 1: expected '}}' to end the tag, found the end of the template"},
      {"\n{% set x = 1", "line 2: expected '%}' to end the tag, found the end of the template"},
      {"{# a", "line 1: expected '#}' to end the comment, found the end of the template"},
      {"{% raw %}x", "line 1: expected '{% endraw %}', found the end of the template"},
      {"{{ 'a }}", "line 1: expected ' to end the string, found the end of the template"},
      {"{{ (1] }}", "line 1: expected ')', found ']'"},
      {"{{ 1) }}", "line 1: found ')', which closes nothing"},
      {"{{ $ }}", "line 1: found the character '$', which no expression holds outside a string"},
      {"{{ }}", "line 1: expected an expression, found the end of the tag ('}}')"},
      {"{{ a b }}", "line 1: expected the end of the tag ('}}'), found 'b'"},
      {"{{ a. }}", "line 1: expected the name of an attribute, or a number, found the end of the tag ('}}')"},
      {"{% for x of y %}{% endfor %}", "line 1: expected 'in', found 'of'"},
      {"{% set x y %}", "line 1: expected '=' or the end of the tag ('%}'), found 'y'"},
      {"{% nope %}",
       "line 1: expected a statement (if, for, set, macro, with, filter, break, continue, generation, "
       "raw), found 'nope'"},
      {"{% break %}", "line 1: found 'break' outside a 'for'"},
      {"{% include 'a' %}", "line 1: statement 'include' is not supported (docs/chat.md lists what is)"},
      {"{% for x in y recursive %}{% endfor %}",
       "line 1: loop modifier 'recursive' is not supported (docs/chat.md lists what is)"},
      {"{% for x in y %}{% macro m() %}{% endmacro %}{% endfor %}",
       "line 1: found a macro inside a 'for', 'with', 'set', 'filter' or macro: only macros of the template "
       "itself "
       "are supported"},
      {"{{ x | groupby('a') }}", "line 1: filter 'groupby' is not supported (docs/chat.md lists what is)"},
      {"{{ x | uper }}", "line 1: there is no filter 'uper'; did you mean 'upper'?"},
      {"{{ x is defind }}", "line 1: there is no test 'defind'; did you mean 'defined'?"},
      {"{{ f(*a) }}", "line 1: argument '*args' is not supported (docs/chat.md lists what is)"},
      {"{{ '\\xZZ' }}", "line 1: found the escape '\\x', expected 2 digits of a character"},
      {"{{ 99999999999999999999 }}",
       "line 1: found the number 99999999999999999999, expected one of at most 64 bits"},
      {"{{ 0x10 }}", "line 1: found '0x': only decimal numbers are supported"},
      {"\n{{ nothing.x }}", "line 2: 'nothing' is undefined"},
      {"{{ {'a': 1}.b.c }}", "line 1: 'dict object' has no attribute 'b'"},
      {"{{ [1][3] + 1 }}", "line 1: list object has no element 3"},
      {"{{ 'a' + 1 }}", "line 1: '+': found a str and a int, which it does not join"},
      {"{{ 1 < 'a' }}", "line 1: '<' is not supported between 'int' and 'str'"},
      {"{{ 1 // 0 }}", "line 1: '//': division by zero"},
      {"{{ 9223372036854775807 + 1 }}", "line 1: the result of '+' exceeds 64 bits"},
      {"{% for x in 3 %}{% endfor %}", "line 1: found a value of type int, expected one to iterate over"},
      {"{% for a, b in [[1]] %}{% endfor %}", "line 1: expected 2 values for 2 variables, found 1"},
      {"{% set x.y = 1 %}", "line 1: 'x.y =': expected a namespace, found a value of type Undefined"},
      {"{{ [].append(1) }}", "line 1: 'append' would change a list, which a template may not"},
      {"{{ ''.__class__ }}",
       "line 1: access to '__class__' is refused: names with two underscores are not a template's"},
      {"{{ 'a'.swapcase() }}",
       "line 1: method of strings 'swapcase' is not supported (docs/chat.md lists what is)"},
      {"{{ raise_exception('no ' ~ 1) }}", "line 1: the template refuses: no 1"},
      {"{{ strftime_now('%Q') }}",
       "line 1: directive of strftime_now '%Q' is not supported (docs/chat.md lists what "
       "is)"},
      {"{% macro m(a) %}{% endmacro %}\n{{ m(1, 2) }}",
       "line 2: macro 'm': expected at most 1 arguments, found 2"},
      {"{{ 'a' | trim(x=1) }}", "line 1: trim: found the argument 'x', which it does not have"},
      {"{{ missing | tojson }}", "line 1: 'missing' is undefined"},
      {"\xff", "not UTF-8: bad byte 0xff at offset 0"},
  };
  for (const auto& c : cases) {
    const auto rendered = Render(c.source);
    ASSERT_FALSE(rendered.ok()) << c.source << " gives " << *rendered;
    EXPECT_EQ(rendered.error().message, c.message) << c.source;
    EXPECT_EQ(rendered.error().code, Code::kInput);
  }
}

TEST(Template, TheClockIsAValue) {
  const auto parsed = Template::Parse("{{ strftime_now('%d %b %Y') }}");
  ASSERT_TRUE(parsed.ok());
  const auto with = parsed->Render({.variables = OrderedJson::object(), .now = kTime, .limits = {}});
  ASSERT_TRUE(with.ok()) << with.error().message;
  EXPECT_EQ(*with, "29 Feb 2024");
  const auto without = parsed->Render({});
  ASSERT_FALSE(without.ok());
  EXPECT_EQ(without.error().message, "line 1: strftime_now: no time was given to this rendering");
}

TEST(Template, HostileTemplatesMeetLimits) {
  const struct {
    std::string source;
    const char* message;
  } cases[] = {
      {"{% macro f(n) %}{% if n > 0 %}{{ f(n-1) ~ f(n-1) }}{% endif %}{% endmacro %}{{ f(30) }}",
       "took more than 100000 steps"},
      {"{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
       "made values of more than 1000000 bytes"},
      {"{{ 'a' * 2000000 }}", "the result exceeds 1000000 bytes"},
      {"{% for i in range(2000) %}{{ 'a' * 100 }}{% endfor %}", "the text exceeds 100000 bytes"},
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "lie in each other more than 200 deep"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}{% endfor %}",
       "values lie in each other more than 100 deep"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(200) %}{% for y in [ns.x] %}{% set ns.x = [loop] "
       "%}{% endfor "
       "%}{% endfor %}",
       "values lie in each other more than 100 deep"},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ "
       "ns.x == "
       "ns.x }}",
       "took more than 100000 steps"},
      {"{{ " + std::string(150, '(') + "1" + std::string(150, ')') + " }}", "more than 100 deep"},
      {"{{ " + std::string(150, '-') + "1 }}", "more than 100 deep"},
      {"{{ 1" +
           [] {
             std::string terms;
             for (int i = 0; i < 400; ++i) terms += "+1";
             return terms;
           }() +
           " }}",
       "more than 300 operations in each other"},
      {std::string((size_t{1} << 20) + 1, 'x'),
       "found a template of 1048577 bytes, expected at most 1048576"},
      {"{{ 'x'.center(1000000000000) }}", "center: a width of 1000000000000"},
      {"{{ range(100001) | list }}", "range: more than 100000 numbers"},
      {"{{ namespace() }}", "a value of type Namespace has no text"},
  };
  for (const auto& c : cases) {
    const auto rendered =
        Render(c.source, OrderedJson::object(),
               {.steps = 100'000, .memory_bytes = 1'000'000, .output_bytes = 100'000, .depth = 200});
    ASSERT_FALSE(rendered.ok()) << c.source;
    EXPECT_THAT(rendered.error().message, testing::HasSubstr(c.message)) << c.source;
  }
  // The defaults let a conversation of thousands of messages through.
  OrderedJson messages = OrderedJson::array();
  for (int i = 0; i < 5000; ++i) messages.push_back({{"role", "user"}, {"content", std::string(100, 'x')}});
  const auto many =
      Render("{% for m in messages %}{{ messages[loop.index0].role ~ m.content | trim }}{% endfor %}",
             {{"messages", messages}});
  ASSERT_TRUE(many.ok()) << many.error().message;
  EXPECT_EQ(many->size(), 5000u * 104);
}

}  // namespace
}  // namespace planish
