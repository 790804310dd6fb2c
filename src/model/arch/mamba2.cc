#include <fmt/format.h>

#include <limits>

#include "base/names.h"
#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::mamba2 {
namespace {

struct Mixer {
  ScanShape scan;
  int64_t kernel = 4;
  bool bias = false, conv_bias = true;
};

// A bound of time_step_limit: a number, or infinity as {"__float__": "Infinity"}.
Result<float> ReadBound(const Json& bound) {
  if (bound.is_object() && bound.contains("__float__") && bound["__float__"] == "Infinity") {
    return std::numeric_limits<float>::infinity();
  }
  if (!bound.is_number() || !(bound.get<double>() >= 0)) {
    return InputError(fmt::format("time_step_limit: expected a number of at least 0, found {}",
                                  Abbreviate(DumpJson(bound))));
  }
  return static_cast<float>(bound.get<double>());
}

Result<Mixer> ReadMixer(const Config& config, const DecoderSpec& spec) {
  Mixer mixer;
  ScanShape& scan = mixer.scan;
  PLANISH_TRY(scan.heads, ReadSize(config, "num_heads", 128));
  PLANISH_TRY(scan.head_dim, ReadSize(config, "head_dim", 64, 4096));
  PLANISH_TRY(scan.state, ReadSize(config, "state_size", 128, 4096));
  PLANISH_TRY(scan.groups, ReadSize(config, "n_groups", 8, 4096));
  PLANISH_TRY(const int64_t expand, ReadSize(config, "expand", 2, 64));
  PLANISH_TRY(mixer.kernel, ReadSize(config, "conv_kernel", 4, 64));
  PLANISH_TRY(mixer.bias, config.Bool("use_bias", false));
  PLANISH_TRY(mixer.conv_bias, config.Bool("use_conv_bias", true));
  const int64_t inner = scan.heads * scan.head_dim;
  if (inner != expand * spec.hidden || inner > kMaxDimension || scan.heads % scan.groups != 0) {
    return InputError(fmt::format(
        "num_heads {} of head_dim {} in n_groups {}: expected expand * hidden_size = {} in whole groups",
        scan.heads, scan.head_dim, scan.groups, expand * spec.hidden));
  }
  Require(config, "mamba2", "intermediate_size", inner);
  // Files say true, and their models were trained with the norm behind the gate.
  config.LeaveAside({"norm_before_gate"});
  if (const Json* limit = config.Find("time_step_limit"); limit != nullptr) {
    if (!limit->is_array() || limit->size() != 2) {
      return InputError("time_step_limit: expected a list of two numbers");
    }
    PLANISH_TRY(scan.dt_min, ReadBound((*limit)[0]));
    PLANISH_TRY(scan.dt_max, ReadBound((*limit)[1]));
    if (scan.dt_min > scan.dt_max) return InputError("time_step_limit: the first bound is above the second");
  }
  return mixer;
}

void BuildLayer(const DecoderSpec& spec, const Mixer& mixer, int64_t layer, Program& program) {
  const ScanShape& scan = mixer.scan;
  const std::string prefix = fmt::format("{}{}.", spec.names.layer, layer), mix = prefix + "mixer.";
  const int64_t inner = scan.heads * scan.head_dim, group = scan.groups * scan.state,
                conv = inner + 2 * group;
  const int64_t all = inner + conv + scan.heads;
  BlockBuilder b(program, fmt::format("layer {}", layer));
  const ValueId x = b.Input("x", spec.hidden);
  const ValueId h = b.RmsNorm(x, prefix + "norm.weight", spec.hidden, spec.eps);
  const ValueId projected = b.Linear(h, "z, x, B, C, dt", mix + "in_proj.weight", all, mixer.bias);
  const ValueId z = b.Slice(projected, "z", {all, 0, inner});
  const ValueId dt = b.Slice(projected, "dt", {all, inner + conv, scan.heads});
  const ValueId mixed = b.Activate(b.Conv(b.Slice(projected, "x, B, C", {all, inner, conv}),
                                          mix + "conv1d.weight", mixer.conv_bias, mixer.kernel),
                                   spec.activation);
  const ValueId scanned =
      b.Scan(b.Slice(mixed, "x", {conv, 0, inner}), b.Slice(mixed, "B", {conv, inner, group}),
             b.Slice(mixed, "C", {conv, inner + group, group}), dt, scan, mix);
  const ValueId normed =
      b.RmsNorm(b.Gate(z, scanned, Activation::kSilu), mix + "norm.weight", inner, spec.eps,
                /*plus=*/0, scan.groups);
  b.Finish(b.Add(x, b.Linear(normed, "out", mix + "out_proj.weight", spec.hidden, mixer.bias)));
}

Result<Program> BuildMamba2(const Config& config) {
  DecoderSpec spec;
  spec.family = "mamba2";
  PLANISH_TRY(spec.vocab, ReadSize(config, "vocab_size", 32768));
  PLANISH_TRY(spec.hidden, ReadSize(config, "hidden_size", 4096));
  PLANISH_TRY(spec.layers, ReadSize(config, "num_hidden_layers", 64, kMaxLayers));
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "layer_norm_epsilon", 1e-5));
  PLANISH_TRY(spec.activation, ReadActivation(config));
  PLANISH_TRY(spec.tied, config.Bool("tie_word_embeddings", false));
  Require(config, "mamba2", "rms_norm", true);
  spec.max_positions = int64_t{1} << 20;  // nothing in the model ends; some number has to bound requests
  spec.names.embed = "backbone.embeddings";
  spec.names.layer = "backbone.layers.";
  spec.names.final_norm = "backbone.norm_f";
  PLANISH_TRY(const Mixer mixer, ReadMixer(config, spec));
  PLANISH_TRY(Program program, BeginProgram(config, spec));
  for (int64_t i = 0; i < spec.layers; ++i) BuildLayer(spec, mixer, i, program);
  FinishProgram(spec, program);
  return program;
}

constexpr GgufName kGgufTop[] = {
    {"token_embd", "backbone.embeddings"}, {"output_norm", "backbone.norm_f"}, {"output", "lm_head"}};
constexpr GgufName kGgufLayer[] = {{"attn_norm", "norm"},
                                   {"ssm_in", "mixer.in_proj"},
                                   {"ssm_conv1d", "mixer.conv1d", GgufName::Form::kKernels},
                                   {"ssm_norm", "mixer.norm", GgufName::Form::kGroups},
                                   {"ssm_out", "mixer.out_proj"}};
constexpr GgufName kGgufWhole[] = {{"ssm_a", "mixer.A_log", GgufName::Form::kNegatedPowers},
                                   {"ssm_d", "mixer.D", GgufName::Form::kColumn},
                                   {"ssm_dt.bias", "mixer.dt_bias"}};
constexpr GgufKey kGgufKeys[] = {{GgufKey::Kind::kInt, "ssm.conv_kernel", "conv_kernel", "4"},
                                 {GgufKey::Kind::kInt, "ssm.state_size", "state_size", "128"},
                                 {GgufKey::Kind::kInt, "ssm.group_count", "n_groups", "8"}};
constexpr GgufImplied kGgufImplied[] = {
    {"hidden_act", "\"silu\"", "\"silu\""},
    {"use_bias", "false", "false"},
    {"use_conv_bias", "true", "true"},
    {"rms_norm", "true", "true"},
    {"time_step_limit", R"([0.0, {"__float__": "Infinity"}])", R"([0.0, {"__float__": "Infinity"}])"}};
constexpr GgufFamily kGguf[] = {{.model_type = "mamba2",
                                 .arch = "mamba2",
                                 .top = kGgufTop,
                                 .layer = kGgufLayer,
                                 .whole = kGgufWhole,
                                 .layer_prefix = "backbone.layers.",
                                 .keys = kGgufKeys,
                                 .implied = kGgufImplied,
                                 .eps = "layer_norm_epsilon",
                                 .theta = nullptr,
                                 .differs = "-exp(A_log) in the place of A_log; A, D and the norm of groups "
                                            "with a second dimension, the convolution without its middle one",
                                 .scan = true}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"mamba2", "Mamba2ForCausalLM",
                        "no attention: a short convolution and a selective scan with a state of fixed size",
                        BuildMamba2, kGguf};

}  // namespace planish::mamba2
