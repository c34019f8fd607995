<?php
// An old program that nobody wants to change: it knows a base URL and a token,
// and nothing of connections. Only base_url in its pleo.ini was changed.
// Usage: php employees.php [PLEO.INI]

$config = parse_ini_file($argc > 1 ? $argv[1] : __DIR__ . '/pleo.ini');
$context = stream_context_create(array('http' => array(
    'header' => 'Authorization: Bearer ' . $config['token'],
    'ignore_errors' => true,
)));

$after = '';
do {
    $url = $config['base_url'] . '/v2/employees?limit=10' . $after;
    $answer = json_decode(file_get_contents($url, false, $context), true);
    if (!isset($answer['data'])) {
        // Pleo's errors and the proxy's both have a message.
        fwrite(STDERR, 'Pleo says: ' . $answer['message'] . "\n");
        exit(1);
    }
    foreach ($answer['data'] as $employee) {
        echo $employee['firstName'], ' ', $employee['lastName'], ' <', $employee['email'], ">\n";
    }
    $page = $answer['pagination'];
    if ($page['hasNextPage']) {
        $after = '&after=' . urlencode($page['endCursor']);
    }
} while ($page['hasNextPage']);
