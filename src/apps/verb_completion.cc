// planish completion: scripts for shells, made from the parser's own list of verbs and options.
#include <fmt/format.h>

#include "apps/app.h"

namespace planish::app {
namespace {

std::vector<std::string> OptionNames(const CLI::App& verb) {
  std::vector<std::string> names;
  for (const CLI::Option* option : verb.get_options()) {
    for (const auto& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::string Bash(const CLI::App& app) {
  std::vector<std::string> verbs;
  std::string cases;
  for (const CLI::App* verb : app.get_subcommands({})) {
    verbs.push_back(verb->get_name());
    cases += fmt::format("    {}) options=\"{}\" ;;\n", verb->get_name(), fmt::join(OptionNames(*verb), " "));
  }
  return fmt::format(
      "_planish() {{\n"
      "  local word=\"${{COMP_WORDS[COMP_CWORD]}}\" options=\"\"\n"
      "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
      "    COMPREPLY=($(compgen -W \"{}\" -- \"$word\"))\n"
      "    return\n"
      "  fi\n"
      "  case \"${{COMP_WORDS[1]}}\" in\n{}  esac\n"
      "  case \"$word\" in\n"
      "    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$word\")) ;;\n"
      "    *) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n"
      "  esac\n"
      "}}\n"
      "complete -o filenames -F _planish planish\n",
      fmt::join(verbs, " "), cases);
}

std::string Fish(const CLI::App& app) {
  std::string out;
  for (const CLI::App* verb : app.get_subcommands({})) {
    out += fmt::format("complete -c planish -n __fish_use_subcommand -a {} -d '{}'\n", verb->get_name(),
                       verb->get_description());
    for (const CLI::Option* option : verb->get_options()) {
      for (const auto& name : option->get_lnames()) {
        out += fmt::format("complete -c planish -n '__fish_seen_subcommand_from {}' -l {} -d '{}'\n",
                           verb->get_name(), name, option->get_description());
      }
    }
  }
  return out;
}

}  // namespace

void AddCompletionVerb(CLI::App& app) {
  auto shell = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("completion", "A completion script for your shell");
  verb->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  verb->footer(
      "Examples:\n  source <(planish completion bash)\n  planish completion fish > "
      "~/.config/fish/completions/planish.fish");
  AddVerb(*verb, [shell, root = &app]() -> Status {
    if (*shell == "fish") {
      fmt::print("{}", Fish(*root));
    } else {
      fmt::print("{}{}", *shell == "zsh" ? "autoload -U +X bashcompinit && bashcompinit\n" : "", Bash(*root));
    }
    return {};
  });
}

}  // namespace planish::app
