// The files of models/demo inside the program (.incbin; the include path and the dependencies on the
// files are set in CMakeLists.txt). Each blob starts on a 64-byte boundary, so that tensors are aligned
// as they are in a mapped file. Names end in _begin and _end; the C++ side is embedded_demo.cc.

.macro embed symbol, file
    .balign 64
    .globl planish_demo_\symbol\()_begin
    .type planish_demo_\symbol\()_begin, %object
    .globl planish_demo_\symbol\()_end
    .type planish_demo_\symbol\()_end, %object
planish_demo_\symbol\()_begin:
    .incbin "\file"
planish_demo_\symbol\()_end:
    .size planish_demo_\symbol\()_begin, planish_demo_\symbol\()_end - planish_demo_\symbol\()_begin
    // A byte behind each file: no end has the address of the next beginning.
    .byte 0
.endm

    .section .rodata, "a", %progbits
    embed config, "config.json"
    embed generation_config, "generation_config.json"
    embed weights, "model.safetensors"
    embed tokenizer, "tokenizer.json"
    embed tokenizer_config, "tokenizer_config.json"

    // Without this note the linker would make the program's stack executable.
    .section .note.GNU-stack, "", %progbits
