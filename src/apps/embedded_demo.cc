#include "apps/embedded_demo.h"

#include <cstddef>
#include <span>

#include "base/file.h"

// Defined in embedded_demo.S: the first byte of each file and the byte behind its last.
extern "C" {
extern const std::byte planish_demo_config_begin[], planish_demo_config_end[];
extern const std::byte planish_demo_generation_config_begin[], planish_demo_generation_config_end[];
extern const std::byte planish_demo_weights_begin[], planish_demo_weights_end[];
extern const std::byte planish_demo_tokenizer_begin[], planish_demo_tokenizer_end[];
extern const std::byte planish_demo_tokenizer_config_begin[], planish_demo_tokenizer_config_end[];
}

namespace planish {

void RegisterEmbeddedDemo() {
  RegisterEmbedded("demo/config.json", std::span(planish_demo_config_begin, planish_demo_config_end));
  RegisterEmbedded("demo/generation_config.json",
                   std::span(planish_demo_generation_config_begin, planish_demo_generation_config_end));
  RegisterEmbedded("demo/model.safetensors", std::span(planish_demo_weights_begin, planish_demo_weights_end));
  RegisterEmbedded("demo/tokenizer.json",
                   std::span(planish_demo_tokenizer_begin, planish_demo_tokenizer_end));
  RegisterEmbedded("demo/tokenizer_config.json",
                   std::span(planish_demo_tokenizer_config_begin, planish_demo_tokenizer_config_end));
}

}  // namespace planish
