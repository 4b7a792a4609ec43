# aarch64-macos.cmake - toolchain file: compiles, but does not link, for Apple silicon with
# `zig cc`, which brings the macOS headers. `make check-cross` is its user, see scripts/check-cross;
# it puts the path of the zig program into the environment variable ZIG.
#
# CMake looks for Apple's own tools when the target is Darwin; none is needed for objects, and the
# static libraries that it wants to make of them are left out.
set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_PROCESSOR arm64)
set(CMAKE_C_COMPILER "$ENV{ZIG}" cc -target aarch64-macos)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_INSTALL_NAME_TOOL true)
set(CMAKE_C_ARCHIVE_CREATE "<CMAKE_COMMAND> -E touch <TARGET>")
set(CMAKE_C_ARCHIVE_APPEND "")
set(CMAKE_C_ARCHIVE_FINISH "")
# zig knows processors, not architectures: the first ones with sdot and with smmla.
set(FLAGS_dotprod -mcpu=apple_m1 CACHE STRING "compiler flags of *_dotprod.c")
set(FLAGS_i8mm -mcpu=apple_m2 CACHE STRING "compiler flags of *_i8mm.c")
