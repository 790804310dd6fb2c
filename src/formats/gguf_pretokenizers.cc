#include "formats/gguf_pretokenizers.h"

namespace planish {
namespace {

// The patterns as the models' own tokenizer.json files have them where they are known, else as llama.cpp does
// (src/llama-vocab.cpp); its rewritings for an engine without case-insensitive groups and categories are
// undone.
constexpr GgufSplit kGpt2 = {.gpt2 = true};
constexpr GgufSplit kDigitsGpt2 = {.digits = true, .gpt2 = true};
constexpr GgufSplit kLlama3 = {
    .patterns = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
                 "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kQwen2 = {.patterns = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
                                           "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kQwen35 = {
    .patterns = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
                 "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kJais2 = {
    .patterns = {
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}("
        "?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s{1}"}};
// Letters of alphabets with cases, one by one.
constexpr GgufSplit kDeepSeekLlm = {
    .patterns = {
        "[\r\n]",
        "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-"
        "\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-"
        "\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-"
        "\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-"
        "\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-"
        "\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-"
        "\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-"
        "\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-"
        "\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-"
        "\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-"
        "\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-"
        "\U000118df\U0001e900-\U0001e943]+",
        "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", "\\s+$",
        "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", "\\p{N}+"}};
constexpr GgufSplit kDeepSeekCoder = {.patterns = {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
                                                   "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", "\\p{N}"}};
constexpr GgufSplit kDeepSeek3 = {
    .patterns = {
        "\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
        "?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kFalcon = {
    .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|`]+",
                 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
                 "[0-9][0-9][0-9]"}};
constexpr GgufSplit kDefaultSplit = {
    .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|]+",
                 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
                 "\\p{N}+", "[0-9][0-9][0-9]"}};
constexpr GgufSplit kBloom = {.patterns = {" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"}};
constexpr GgufSplit kViking = {
    .patterns = {" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+", "\\p{N}"}};
constexpr GgufSplit kTekken = {
    .patterns = {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|["
                 "^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
                 "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kGpt4o = {
    .patterns = {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?"
                 "i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+["
                 "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| "
                 "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kTinyAya = {
    .patterns = {"\\d{1,3}(?=(?:\\d{3})*\\b)",
                 "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?"
                 "i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+["
                 "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| "
                 "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kChameleon = {
    .patterns = {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", "\\p{N}",
                 "[\\p{P}!-/:-@\\[-`{-~]",
                 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kSuperBpe = {.patterns = {"\\p{N}+", "(?=(\\d{3})+(?!\\d))"}};
constexpr GgufSplit kBailingMoe = {
    .patterns = {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| "
                 "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kSeedCoder = {
    .patterns = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| "
                 "?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kUfakZeka = {
    .patterns = {"[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                 "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kLaguna = {
    .patterns = {"[^\\n]+|[\\n]+",
                 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                 "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kExaoneMoe = {
    .patterns = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: "
                 "\\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kMiniCpm5 = {
    .patterns = {"\\p{N}{1,3}",
                 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}+| "
                 "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kSpark = {
    .patterns = {
        "\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
        "?[\\p{P}\\p{S}]+|[\\r\\n]|\\s+(?!\\S)|\\s+",
        "\\p{N}"}};
constexpr GgufSplit kYoutu = {
    .patterns = {
        "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-"
        "\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'"
        "re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}"
        "\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kKimi = {
    .patterns = {
        "\\p{Han}+|[^\\r\\n\\p{L}\\p{N}]?(?:(?!\\p{Han})[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}])*(?:(?!\\p{Han})"
        "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}])+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?(?:(?!\\p{Han})["
        "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}])+(?:(?!\\p{Han})[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}])*(?i:'s|'t|'re|'"
        "ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
constexpr GgufSplit kAfmoe = {
    .patterns = {
        "\\p{N}{1,3}(?=(?:\\p{N}{3})*(?!\\p{N}))",
        "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-"
        "\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
        "?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};

constexpr GgufPreTokenizer kPreTokenizers[] = {
    {"gpt-2", &kGpt2},
    {"phi-2", &kGpt2},
    {"jina-es", &kGpt2},
    {"jina-de", &kGpt2},
    {"jina-v2-es", &kGpt2},
    {"jina-v2-de", &kGpt2},
    {"gigachat", &kGpt2},
    {"a.x-4.0", &kGpt2},
    {"mellum", &kGpt2},
    {"modern-bert", &kGpt2},
    {"mpt", &kGpt2},
    {"olmo", &kGpt2},
    {"jais", &kGpt2},
    {"trillion", &kGpt2},
    {"granite-docling", &kGpt2},
    {"exaone4", &kGpt2},
    {"smollm", &kDigitsGpt2},
    {"starcoder", &kDigitsGpt2},
    {"refact", &kDigitsGpt2},
    {"command-r", &kDigitsGpt2},
    {"codeshell", &kDigitsGpt2},
    {"exaone", &kDigitsGpt2},
    {"minerva-7b", &kDigitsGpt2},
    {"mellum2", &kDigitsGpt2},
    {"llama-bpe", &kLlama3, true, true},
    {"llama3", &kLlama3, true, true},
    {"llama-v3", &kLlama3, true, true},
    {"falcon3", &kLlama3, true, true},
    {"falcon-h1", &kLlama3, true, true},
    {"pixtral", &kLlama3, true, true},
    {"midm-2.0", &kLlama3, true, true},
    {"lfm2", &kLlama3, true, true},
    {"jina-v5-nano", &kLlama3, true, true},
    {"smaug-bpe", &kLlama3},
    {"dbrx", &kLlama3},
    {"glm4", &kLlama3},
    {"chatglm-bpe", &kLlama3},
    {"qwen2", &kQwen2},
    {"deepseek-r1-qwen", &kQwen2},
    {"kormo", &kQwen2},
    {"f2llmv2", &kQwen2},
    {"megrez", &kQwen2},
    {"stablelm2", &kQwen2},
    {"hunyuan", &kQwen2},
    {"solar-open", &kQwen2},
    {"grok-2", &kQwen2},
    {"qwen35", &kQwen35},
    {"jais-2", &kJais2},
    {"deepseek-llm", &kDeepSeekLlm},
    {"deepseek-coder", &kDeepSeekCoder},
    {"deepseek-v3", &kDeepSeek3},
    {"hunyuan-dense", &kDeepSeek3},
    {"joyai-llm", &kDeepSeek3},
    {"hy_v4", &kDeepSeek3},
    {"falcon", &kFalcon},
    {"default", &kDefaultSplit},
    {"bloom", &kBloom},
    {"gpt3-finnish", &kBloom},
    {"poro-chat", &kBloom},
    {"viking", &kViking},
    {"tekken", &kTekken, true, true},
    {"gpt-4o", &kGpt4o},
    {"llama4", &kGpt4o},
    {"kanana2", &kGpt4o},
    {"talkie", &kGpt4o},
    {"minimax-m2", &kGpt4o},
    {"granite-embed-multi-97m", &kGpt4o, true},
    {"tiny_aya", &kTinyAya},
    {"cohere2moe", &kTinyAya},
    {"chameleon", &kChameleon, false, true},
    {"superbpe", &kSuperBpe},
    {"bailingmoe", &kBailingMoe},
    {"bailingmoe2", &kBailingMoe},
    {"llada-moe", &kBailingMoe},
    {"seed-coder", &kSeedCoder},
    {"ufakzeka", &kUfakZeka},
    {"laguna", &kLaguna},
    {"exaone-moe", &kExaoneMoe},
    {"minicpm5", &kMiniCpm5, true},
    {"spark2_5", &kSpark},
    {"youtu", &kYoutu, true},
    {"kimi-k2", &kKimi},
    {"afmoe", &kAfmoe},
};

// The pattern's text; some files escape quotes in it, which changes nothing.
std::string PatternOf(const Json& stage) {
  const Json regex = JsonMember(JsonMember(stage, "pattern"), "Regex");
  std::string text = regex.is_string() ? regex.get<std::string>() : "";
  for (size_t at = text.find("\\\""); at != text.npos; at = text.find("\\\"", at + 1)) text.erase(at, 1);
  return text;
}

}  // namespace

std::span<const GgufPreTokenizer> GgufPreTokenizers() { return kPreTokenizers; }

OrderedJson PreTokenizerJson(const GgufSplit& split) {
  OrderedJson list = OrderedJson::array();
  if (split.digits) list.push_back({{"type", "Digits"}, {"individual_digits", true}});
  for (const char* pattern : split.patterns) {
    if (pattern == nullptr) break;
    list.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  list.push_back({{"type", "ByteLevel"},
                  {"add_prefix_space", false},
                  {"trim_offsets", true},
                  {"use_regex", split.gpt2}});
  return {{"type", "Sequence"}, {"pretokenizers", list}};
}

bool SplitsLike(const Json& pre_tokenizer, const GgufSplit& split) {
  const Json inner = JsonMember(pre_tokenizer, "pretokenizers");
  const Json list = JsonMember(pre_tokenizer, "type") == "Sequence" ? inner : Json::array({pre_tokenizer});
  const Json wanted = Json::parse(DumpJson(PreTokenizerJson(split)))["pretokenizers"];
  if (!list.is_array() || list.size() != wanted.size()) return false;
  for (size_t i = 0; i < list.size(); ++i) {
    if (PatternOf(list[i]) != PatternOf(wanted[i])) return false;
    for (const char* key :
         {"type", "behavior", "invert", "individual_digits", "use_regex", "add_prefix_space"}) {
      if (JsonMember(list[i], key) != JsonMember(wanted[i], key)) return false;
    }
  }
  return true;
}

}  // namespace planish
