// The demo model (models/demo: a Llama of 6.5M parameters) linked into the program, so that it runs
// without any file.
#pragma once

namespace planish {

// Registers the demo model's files as "embedded:demo/config.json" and so on (base/file.h): the folder
// "embedded:demo" then opens as a model. Call once, before any thread starts.
void RegisterEmbeddedDemo();

}  // namespace planish
