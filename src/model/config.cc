#include "model/config.h"

#include <algorithm>
#include <string_view>

#include "base/names.h"

namespace planish {
namespace {

constexpr std::string_view kSaysNothing[] = {
    // Of the file and of who wrote it.
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash",
    "_flash_attn_2_enabled", "_name_or_path", "_num_labels", "architectures", "attn_implementation",
    "auto_map", "custom_pipelines", "dtype", "is_llama_config", "license", "model_name", "model_type",
    "name_or_path", "quantization_config", "rope_parameters.finetuned", "rope_scaling.finetuned",
    "tokenizer_class", "torch_dtype", "transformers.js_config", "transformers_version", "unsloth_fixed",
    "unsloth_version",
    // Of running it elsewhere: types of intermediate values, kernels, caches, slices, lengths to cut at.
    "attention_softmax_in_fp32", "cache_implementation", "chunk_size", "ep_size", "max_length", "max_seq_len",
    "max_sequence_length", "model_max_length", "output_attentions", "output_hidden_states", "output_past",
    "output_router_logits", "pretraining_tp", "reorder_and_upcast_attn", "residual_in_fp32", "return_dict",
    "return_dict_in_generate", "scale_attention_softmax_in_fp32", "seq_length", "torchscript", "use_bfloat16",
    "use_cache", "use_flash_attention", "use_flash_attn", "use_mamba_kernels",
    // Of training: dropout, first values, losses.
    "activation_dropout", "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "aux_loss_alpha",
    "dropout", "embd_pdrop", "embedding_dropout", "gradient_checkpointing", "hidden_dropout",
    "hidden_dropout_prob", "init_method", "init_std", "initializer_range", "layerdrop", "resid_pdrop",
    "rescale_prenorm_residual", "residual_dropout", "router_aux_loss_coef", "router_jitter_noise",
    "router_z_loss_coef", "seq_aux", "time_step_floor", "time_step_init_scheme", "time_step_max",
    "time_step_min", "time_step_rank", "time_step_scale",
    // Of generating text and of tokens.
    "bad_words_ids", "begin_suppress_tokens", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
    "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_new_tokens", "min_length",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_scores",
    "pad_token_id", "predict_special_tokens", "prefix", "remove_invalid_values", "repetition_penalty",
    "sep_token_id", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p", "unk_token_id",
    // Of heads for other tasks than the next token, and of classes of models in general.
    "chunk_size_feed_forward", "classifier_dropout", "finetuning_task", "id2label", "is_decoder", "label2id",
    "num_labels", "problem_type", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
    "summary_type", "summary_use_proj", "task_specific_params", "tf_legacy_loss"};

// Options that are off at another value than false.
struct Usual {
  std::string_view field;
  const char* value;  // JSON
};
constexpr Usual kUsual[] = {{"attention_logits_scaling", "1.0"},
                            {"elementwise_affine", "true"},
                            {"is_causal", "true"},
                            {"layer_norm_elementwise_affine", "true"},
                            {"n_special", "0"},
                            {"rotary_scaling_factor", "1.0"},
                            {"scale_attn_weights", "true"},
                            {"use_rope", "true"},
                            {"use_rotary", "true"}};

bool SaysNothingOf(const Json& value) {
  return value.is_null() || value == false || value == "" || (value.is_structured() && value.empty());
}

}  // namespace

bool SaysNothing(const std::string& path) {
  return std::ranges::find(kSaysNothing, path) != std::end(kSaysNothing);
}

Config::Config(const Json& object) : object_(&object), notes_(std::make_shared<Notes>()) {}

std::string Config::Asked(const std::string& key) const {
  const auto own = own_names_.find(key);
  const std::string& name = own != own_names_.end() && object_->contains(own->second) ? own->second : key;
  notes_->asked.insert(path_ + name);
  return name;
}

const Json* Config::Find(const std::string& key) const {
  const auto found = object_->find(Asked(key));
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

bool Config::Has(const std::string& key) const { return object_->contains(Asked(key)); }

Result<Config> Config::Object(const std::string& key) const {
  static const Json kNothing = Json::object();
  const Json* found = Find(key);
  if (found != nullptr && !found->is_object()) {
    return InputError("field '" + key + "': expected an object, found " + Abbreviate(DumpJson(*found), 60));
  }
  return InPlaceOf(key, found == nullptr ? kNothing : *found);
}

Config Config::InPlaceOf(const std::string& key, const Json& object) const {
  Config inside = *this;
  inside.object_ = &object;
  inside.path_ = path_ + Asked(key) + ".";
  inside.own_names_.clear();
  notes_->asked.insert(inside.path_);
  return inside;
}

Config Config::Renamed(std::map<std::string, std::string> own_names) const {
  Config renamed = *this;
  renamed.own_names_ = std::move(own_names);
  return renamed;
}

void Config::LeaveAside(std::initializer_list<const char*> keys) const {
  for (const char* key : keys) Asked(key);
}

void Config::TakeNotesOf(const Config& other) const {
  notes_->asked.insert(other.notes_->asked.begin(), other.notes_->asked.end());
}

void Config::Refuse(std::string what) const {
  if (std::ranges::find(notes_->refused, what) == notes_->refused.end()) {
    notes_->refused.push_back(std::move(what));
  }
}

void Config::Collect(const Json& object, const std::string& path, std::vector<Field>& unread) const {
  for (const auto& [key, value] : object.items()) {
    const std::string name = path + key;
    if (SaysNothing(key) || SaysNothing(name)) continue;
    if (notes_->asked.contains(name + ".")) {
      if (value.is_object()) Collect(value, name + ".", unread);
      continue;
    }
    if (notes_->asked.contains(name)) continue;
    const auto* usual = std::ranges::find(kUsual, key, &Usual::field);
    if (usual != std::end(kUsual) ? value == Json::parse(usual->value) || value.is_null()
                                  : SaysNothingOf(value)) {
      continue;
    }
    unread.push_back({name, &value});
  }
}

std::vector<Config::Field> Config::Unread() const {
  std::vector<Field> unread;
  Collect(*object_, path_, unread);
  return unread;
}

}  // namespace planish
